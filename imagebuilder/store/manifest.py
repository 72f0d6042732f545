"""What an output consists of: type, mode and digest of every entry, in one canonical text. Reads files."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from imagebuilder.errors import ImagebuilderError
from imagebuilder.store.hashing import sha256_of

FORMAT = "imagebuilder manifest 1"
"""First line of the text."""


@dataclass(frozen=True)
class Entry:
    """One folder, file or link; whose it is and when it was made don't count."""

    path: PurePosixPath
    """Relative to the output."""
    kind: str
    """``d``, ``f`` or ``l``."""
    mode: int
    """Permission bits; 0 of a link."""
    content: str = ""
    """SHA-256 of a file, target of a link."""
    size: int = 0
    """Of a file, in bytes."""

    def __str__(self) -> str:
        return json.dumps([self.kind, f"{self.mode:04o}", self.size, self.content, str(self.path)])


@dataclass(frozen=True)
class Manifest:
    """All entries of an output."""

    entries: tuple[Entry, ...]
    """Sorted by path, so that a folder comes before what it holds."""

    def __str__(self) -> str:
        return "\n".join([FORMAT, *map(str, self.entries)]) + "\n"

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the text: the identity of the output's content."""
        return hashlib.sha256(str(self).encode()).hexdigest()


def manifest_of(folder: Path, *, known: Mapping[str, str] | None = None) -> Manifest:
    """Return the manifest of what is in *folder*; *known* are SHA-256 by relative path that need not be taken again."""

    def entry(path: Path) -> Entry:
        relative, status = PurePosixPath(path.relative_to(folder)), path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            return Entry(relative, "l", 0, str(path.readlink()))
        if stat.S_ISDIR(status.st_mode):
            return Entry(relative, "d", mode)
        if stat.S_ISREG(status.st_mode):
            digest = (known or {}).get(str(relative)) or sha256_of(path)
            return Entry(relative, "f", mode, digest, status.st_size)
        raise ImagebuilderError(f"{path} is neither a file nor a folder nor a link, and can't be kept in the store")

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return Manifest(tuple(sorted(pool.map(entry, _below(folder)), key=lambda entry: entry.path)))


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in (*folders, *files))


def parse_manifest(text: str, *, source: str) -> Manifest:
    """Return the manifest that *text* is; raise ImagebuilderError naming *source* when it is none."""
    head, _, rest = text.partition("\n")
    try:
        if head == FORMAT:
            return Manifest(tuple(_entry(*json.loads(line)) for line in rest.splitlines()))
    except (ValueError, TypeError) as error:
        raise ImagebuilderError(f"{source} is no manifest: {error}") from error
    raise ImagebuilderError(f"{source} is no manifest that this version can read")


def _entry(kind: str, mode: str, size: int, content: str, path: str) -> Entry:
    return Entry(PurePosixPath(path), kind, int(mode, 8), content, size)


def differing(a: Manifest, b: Manifest) -> tuple[PurePosixPath, ...]:
    """Return the paths whose entries differ, sorted. Pure."""
    return tuple(sorted({entry.path for entry in set(a.entries) ^ set(b.entries)}))
