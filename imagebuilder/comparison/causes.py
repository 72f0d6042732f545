"""Guessing why two builds of the same thing differ, from what differs. Pure."""

import re
from collections import Counter
from itertools import takewhile

from imagebuilder.comparison.entries import Entry, Kind

LONGEST = 2**22
"""Bytes beyond which a content is not looked into."""

SHOWN = 100
"""Characters of a line that are shown."""

TIMES = re.compile(
    rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?|\d\d:\d\d:\d\d"
    rb"|(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d{1,2}( \d{4})?"
    rb"|(Mon|Tue|Wed|Thu|Fri|Sat|Sun),? |\b(1[0-9]{9}|2[0-9]{9})\b|\d{4}-\d\d-\d\d"
)
"""Dates, times of day and Unix seconds."""
FOLDERS = re.compile(rb"(/[A-Za-z0-9._+@~-]+){2,}")
ZONES = re.compile(rb"\b(UTC|GMT|JST|[A-Z]{3,4}T|[+-]\d\d:?\d\d)\b")
ROOT_HASH = re.compile(rb"roothash=[0-9a-f]{64}")
RANDOM = re.compile(rb"[A-Za-z0-9+/=._$-]{16,}|[0-9a-f-]{8,}")

TIME = "a time stamp that is not taken from SOURCE_DATE_EPOCH"
ZONE = "the time zone"
ORDER = "order: of a folder's listing, of threads, or of a locale's alphabet"
PATH = "an absolute path of the machine that built it"
CHANCE = "something random: a key, a salt or an identifier"
UMASK = "the umask of who built it"
OWNER = "the owner: root and plain users leave different ones"
CASE = "the locale"
UNKNOWN = "unknown: the content differs in a way that no guess fits"
CONSEQUENCE = "a consequence of the other differences"


def cause(first: Entry | None, second: Entry | None) -> str:
    """Return the likely cause of the difference between *first* and *second*, None being absence."""
    if first is None or second is None:
        return "made in one of the builds only: by chance, by time, or left behind by a step"
    if first.kind is not second.kind:
        return UNKNOWN
    if first.digest == second.digest:
        return _cause_of_facts(first, second)
    if max(first.size, second.size) > LONGEST:
        return UNKNOWN
    return cause_of_contents(first.read(), second.read())


def _cause_of_facts(first: Entry, second: Entry) -> str:
    if first.owner != second.owner:
        return OWNER
    if first.mode is not None and second.mode is not None and first.mode != second.mode:
        # A umask takes bits away and adds none.
        return UMASK if first.mode & second.mode in (first.mode, second.mode) else UNKNOWN
    if first.mtime != second.mtime:
        return TIME
    if {name for name, _ in set(first.attributes) ^ set(second.attributes)} <= {"inode", "links", "device"}:
        return ORDER
    return TIME if "time stamp" in dict(first.attributes) else UNKNOWN


def cause_of_contents(first: bytes, second: bytes) -> str:
    """Return the likely cause of the difference between two versions of a file."""
    if first.count(b"\0") + second.count(b"\0"):
        return ORDER if Counter(first) == Counter(second) else UNKNOWN
    if sorted(first.split()) == sorted(second.split()):
        return ORDER
    for pattern, meaning in ((ROOT_HASH, CONSEQUENCE), (TIMES, TIME), (ZONES, ZONE), (FOLDERS, PATH)):
        if pattern.sub(b"", first) == pattern.sub(b"", second):
            return meaning
    if TIMES.sub(b"", ZONES.sub(b"", first)) == TIMES.sub(b"", ZONES.sub(b"", second)):
        return ZONE
    if first.lower() == second.lower():
        return CASE
    return CHANCE if RANDOM.sub(b"", first) == RANDOM.sub(b"", second) else UNKNOWN


def excerpt(first: Entry | None, second: Entry | None) -> tuple[str, str]:
    """Return the first line of each that differs from the other's; empty strings for what is no text."""
    if first is None or second is None or first.kind is Kind.FOLDER or max(first.size, second.size) > LONGEST:
        return "", ""
    contents = first.read(), second.read()
    if first.digest == second.digest or b"\0" in contents[0] + contents[1]:
        return "", ""
    sides = [content.decode(errors="replace").splitlines() for content in contents]
    length = max(len(side) for side in sides)
    for one, other in zip(*([*side, *[""] * (length - len(side))] for side in sides), strict=True):
        if one != other:
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
            start = max(0, common - SHOWN // 2)
            return one[start : start + SHOWN], other[start : start + SHOWN]
    return "", ""
