"""The lock: every package that a build may use, by hash, in a form that merges line by line. Pure."""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from imagebuilder.errors import ImagebuilderError

RELEASE = "trixie"
"""The Debian release that everything is made of."""

RESTORE_HINT = "restore it from version control, or make it anew with: imagebuilder lock"


class Closure(StrEnum):
    """What a package is needed for; a closure is complete in itself."""

    TOOLS = "tools"
    INITRD = "initrd"
    PROXY = "proxy"
    CLIENT = "client"
    INSTALLER = "installer"


class Archive(StrEnum):
    """Which archive a package's pool path belongs to; where that archive is, the machine says."""

    DEBIAN = "debian"
    SECURITY = "debian-security"


class LockedPackage(BaseModel):
    """One .deb."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
    version: str
    architecture: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=1)]
    """In bytes."""
    archive: Archive
    path: Annotated[str, StringConstraints(pattern=r"^pool/[^\s]+\.deb$")]
    """Below the archive's root."""
    closures: tuple[Closure, ...]
    """Sorted."""
    pinned: str | None = None
    """Why the file of overrides wants just this version."""
    held: str | None = None
    """Why the file of overrides wants no other version than the one locked before."""

    @property
    def file_name(self) -> str:
        """Name by which apt knows the file in a local repository."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Lock(BaseModel):
    """The exact inputs of a build."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    """Of this format."""
    epoch: Annotated[int, Field(ge=0)]
    """Date of everything in the images, in Unix seconds: that of the newest archive index when locking."""
    seed: UUID
    """Whence partition and file system identifiers come."""
    updates: tuple[int, ...] = ()
    """Dates (Unix seconds) of the archives when single packages were locked anew since; the epoch stays as it was."""
    packages: tuple[LockedPackage, ...]
    """Sorted by name."""

    def closure(self, closure: Closure) -> tuple[LockedPackage, ...]:
        """Return the packages that *closure* is made of, sorted by name."""
        return tuple(package for package in self.packages if closure in package.closures)

    @property
    def states(self) -> tuple[int, ...]:
        """Dates (Unix seconds) of the archives that the packages were taken from, newest first."""
        return (*reversed(self.updates), self.epoch)

    @property
    def by_name(self) -> dict[str, LockedPackage]:
        """The packages by their names."""
        return {package.name: package for package in self.packages}


def lock_text(lock: Lock) -> str:
    """Return *lock* as it is written: TOML, one line per package."""
    lines = [
        "# Written by `imagebuilder lock`: the exact inputs of both images and of the toolchain. Keep it in version",
        "# control; it names no mirror, those come from the settings of the machine.",
        f"version = {lock.version}",
        f"epoch = {lock.epoch}",
        f'seed = "{lock.seed}"',
        *([f"updates = {list(lock.updates)}"] if lock.updates else []),
        "",
        "[packages]",
        *(_line(package) for package in lock.packages),
    ]
    return "\n".join(lines) + "\n"


def _line(package: LockedPackage) -> str:
    fields = {
        "version": _quoted(package.version),
        "architecture": _quoted(package.architecture),
        "sha256": _quoted(package.sha256),
        "size": str(package.size),
        "archive": _quoted(package.archive),
        "path": _quoted(package.path),
        "closures": "[" + ", ".join(map(_quoted, package.closures)) + "]",
    }
    notes = {"pinned": package.pinned, "held": package.held}
    fields |= {name: _quoted(reason) for name, reason in notes.items() if reason is not None}
    return f'"{package.name}" = {{ ' + ", ".join(f"{name} = {value}" for name, value in fields.items()) + " }"


def _quoted(text: str) -> str:
    # JSON leaves the delete character as it is, TOML wants it escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_lock(text: str, *, source: str) -> Lock:
    """Return the lock that *text* says; raise ImagebuilderError naming *source* when it is not one."""
    conflict = re.search(r"^(<<<<<<<|=======|>>>>>>>)", text, re.MULTILINE)
    if conflict:
        line = text.count("\n", 0, conflict.start()) + 1
        raise ImagebuilderError(
            f"{source}:{line}: the lock has a merge conflict that is not resolved", hint=RESTORE_HINT
        )
    try:
        raw = tomllib.loads(text)
        packages = raw.pop("packages", {})
        listed = [{"name": name, **fields} for name, fields in sorted(packages.items())]
        return Lock.model_validate({**raw, "packages": listed})
    except ValidationError as error:
        reason = _first_wrong(error, [package["name"] for package in listed])
    except (tomllib.TOMLDecodeError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
    raise ImagebuilderError(f"{source} is not a lock that this version can read: {reason}", hint=RESTORE_HINT)


def _first_wrong(error: ValidationError, names: Sequence[str]) -> str:
    """Return what is wrong first, with its place as it is in the file; *names* are those of the packages, in order."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = [*first["loc"]]
    if len(place) > 1 and isinstance(place[1], int):
        place[1] = names[place[1]]
    more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{'.'.join(map(str, place))}: {first['msg'].lower()}{more}"


def read_lock(path: Path) -> Lock:
    """Return the lock in the file *path*; raise ImagebuilderError when it is missing or unreadable."""
    try:
        return parse_lock(path.read_text(), source=path.name)
    except FileNotFoundError as error:
        raise ImagebuilderError(
            f"there is no lock {path.name}", hint=f"imagebuilder lock -t {path.with_suffix('.toml')}"
        ) from error
    except UnicodeDecodeError as error:
        raise ImagebuilderError(f"{path.name} is not a lock: it is no UTF-8 text", hint=RESTORE_HINT) from error
    except OSError as error:
        raise ImagebuilderError(f"{path.name} can't be read: {str(error.strerror).lower()}") from error


@dataclass(frozen=True)
class Change:
    """What another lock means for one package, in the closures where it means just that."""

    name: str
    old: str | None
    """Version before; None when it was not there."""
    new: str | None
    """Version now; None when it is no longer there."""
    security: bool
    """Whether the new version comes from the security archive."""
    closures: tuple[Closure, ...]
    """Sorted."""

    def __str__(self) -> str:
        sign, versions = " ", f"{self.old} -> {self.new}"
        if self.old is None:
            sign, versions = "+", f"{self.new}"
        elif self.new is None:
            sign, versions = "-", self.old
        security = " (security)" if self.security else ""
        return f"{sign} {self.name} {versions}{security} [{', '.join(self.closures)}]"


def changes(old: Lock | None, new: Lock) -> tuple[Change, ...]:
    """Return what differs in *new*, by name: what came, what went, what moved, and in which closures."""
    before, after = old.by_name if old else {}, new.by_name
    found: list[Change] = []
    for name in sorted(before.keys() | after.keys()):
        found += _changes(name, before.get(name), after.get(name))
    return tuple(found)


def _changes(name: str, old: LockedPackage | None, new: LockedPackage | None) -> Iterator[Change]:
    by_kind: dict[tuple[LockedPackage | None, LockedPackage | None], list[Closure]] = {}
    for closure in sorted(Closure):
        was = old if old and closure in old.closures else None
        now = new if new and closure in new.closures else None
        if (was and was.sha256) != (now and now.sha256):
            by_kind.setdefault((was, now), []).append(closure)
    for (was, now), closures in by_kind.items():
        security = now is not None and now.archive is Archive.SECURITY
        yield Change(name, was.version if was else None, now.version if now else None, security, tuple(closures))
