"""Lines on a console that a healthy machine does not write: what to look for, and what was new since the last look.
Reads files."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.runs.record import Complaint
from imagebuilder.vm.chassis import ESCAPES

SIGNS = {
    "kernel panic": r"Kernel panic - not syncing",
    "kernel bug": r"kernel BUG at|BUG: (?!soft lockup|workqueue lockup)|Oops: |general protection fault|WARNING: CPU: ",
    "out of memory": r"Out of memory: Killed process|oom-kill:|Memory cgroup out of memory",
    "crashed program": r"segfault at|traps: \S+ trap|dumped core",
    "disk error": r"(?:Buffer )?I/O error|blk_update_request:|critical (?:medium|target) error",
    "file system error": r"EXT4-fs error|EXT4-fs \(\S+\): Remounting filesystem read-only|erofs: .*(?:error|corrupt)",
    "damaged root": r"device-mapper: verity: .*corrupted|verity: .*root hash.*(?:fail|mismatch)",
    "failed unit": r"\[\s*FAILED\s*\]|Failed to start |Dependency failed for ",
    "emergency": r"You are in emergency mode|Entering emergency mode|Cannot open access to console",
    "ordering cycle": r"ordering cycle",
    "starved processor": r"soft lockup|workqueue lockup|rcu:? .*(?:stall|starved)|clocksource: .*unstable",
}
"""Kinds of complaints, and the lines that are one (Linux 6.12 and systemd 257 write them so)."""
STARVED = "starved processor"
"""What an emulated machine says when its host is busy: told, but no fault of the image."""


def complaint_in(line: str) -> str | None:
    """Return the kind of complaint that *line* is, or None. Pure."""
    return next((kind for kind, sign in SIGNS.items() if re.search(sign, line)), None)


@dataclass
class Consoles:
    """The consoles in *folder*, and how far they were read."""

    folder: Path
    emulated: bool
    _read: dict[Path, int] = field(default_factory=dict)

    def new_complaints(self, test: str, expected: tuple[str, ...] = ()) -> tuple[Complaint, ...]:
        """Return what the machines complained of since the last call; kinds that are *expected* don't count."""
        found = []
        for file in sorted(self.folder.rglob("*.console.txt")):
            if "failures" in file.relative_to(self.folder).parts:
                continue
            for line in self._new_lines(file):
                if kind := complaint_in(line):
                    counted = kind not in expected and not (self.emulated and kind == STARVED)
                    machine = file.name.removesuffix(".console.txt")
                    found.append(Complaint(machine=machine, kind=kind, line=line[:400], test=test, counted=counted))
        return tuple(found)

    def _new_lines(self, file: Path) -> list[str]:
        with file.open("rb") as console:
            console.seek(self._read.get(file, 0))
            new = console.read()
        whole, _, _ = new.rpartition(b"\n")  # a line that is being written is for the next look
        self._read[file] = self._read.get(file, 0) + (len(whole) + 1 if whole else 0)
        text = ESCAPES.sub("", whole.decode(errors="replace")).replace("\r", "")
        return [line.strip() for line in text.splitlines() if line.strip()]
