"""What a file system, an archive or a program consists of: entries by path, comparable whatever holds them. Pure."""

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "device or socket"
    SECTION = "section"
    """Part of a program in PE format."""


@dataclass(frozen=True)
class Entry:
    """One file, folder or link; what its holder doesn't record is None."""

    kind: Kind
    size: int
    """In bytes."""
    digest: str
    """SHA-256 (hex) of the content, or of a link's target."""
    mode: int | None = None
    """Permissions with setuid, setgid and sticky bit."""
    owner: tuple[int, int] | None = None
    """Numbers of user and group."""
    mtime: int | None = None
    """When it was changed last, Unix seconds."""
    attributes: tuple[tuple[str, str], ...] = ()
    """Extended attributes and what else the holder keeps, sorted."""
    read: Callable[[], bytes] = field(default=lambda: b"", compare=False, repr=False)
    """Returns the content."""

    def __str__(self) -> str:
        facts = [str(self.kind)]
        if self.mode is not None:
            facts.append(f"{self.mode:04o}")
        if self.owner is not None:
            facts.append(f"{self.owner[0]}:{self.owner[1]}")
        return " ".join([*facts, f"{self.size:,} bytes", f"sha256 {self.digest[:16]}"])


Entries = Mapping[str, Entry]
"""Path, relative to the root of what holds them, to entry."""


def kind_of(mode: int) -> Kind:
    """Return what the file type bits of *mode* (as in stat) say."""
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.FOLDER
    return Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER
