"""The lock: every package that a build may use, by hash, in a form that merges line by line. Pure."""

import json
import re
import tomllib
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from imagebuilder.errors import ImagebuilderError

RELEASE = "trixie"
"""The Debian release that everything is made of."""


class Closure(StrEnum):
    """What a package is needed for; a closure is complete in itself."""

    TOOLS = "tools"
    INITRD = "initrd"
    PROXY = "proxy"
    CLIENT = "client"


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
    packages: tuple[LockedPackage, ...]
    """Sorted by name."""

    def closure(self, closure: Closure) -> tuple[LockedPackage, ...]:
        """Return the packages that *closure* is made of, sorted by name."""
        return tuple(package for package in self.packages if closure in package.closures)


def lock_text(lock: Lock) -> str:
    """Return *lock* as it is written: TOML, one line per package."""
    lines = [
        "# Written by `imagebuilder lock`: the exact inputs of both images and of the toolchain. Keep it in version",
        "# control; it names no mirror, those come from the settings of the machine.",
        f"version = {lock.version}",
        f"epoch = {lock.epoch}",
        f'seed = "{lock.seed}"',
        "",
        "[packages]",
    ]
    for package in lock.packages:
        closures = ", ".join(f'"{closure}"' for closure in package.closures)
        lines.append(
            f'"{package.name}" = {{ version = {json.dumps(package.version)}, architecture = "{package.architecture}", '
            f'sha256 = "{package.sha256}", size = {package.size}, archive = "{package.archive}", '
            f"path = {json.dumps(package.path)}, closures = [{closures}] }}"
        )
    return "\n".join(lines) + "\n"


def parse_lock(text: str, *, source: str) -> Lock:
    """Return the lock that *text* says; raise ImagebuilderError naming *source* when it is not one."""
    hint = "restore it from version control, or make it anew with: imagebuilder lock"
    conflict = re.search(r"^(<<<<<<<|=======|>>>>>>>)", text, re.MULTILINE)
    if conflict:
        line = text.count("\n", 0, conflict.start()) + 1
        raise ImagebuilderError(f"{source}:{line}: the lock has a merge conflict that is not resolved", hint=hint)
    try:
        raw = tomllib.loads(text)
        packages = raw.pop("packages", {})
        listed = [{"name": name, **fields} for name, fields in sorted(packages.items())]
        return Lock.model_validate({**raw, "packages": listed})
    except (tomllib.TOMLDecodeError, ValidationError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ImagebuilderError(f"{source} is not a lock that this version can read ({reason})", hint=hint) from error


def read_lock(path: Path) -> Lock:
    """Return the lock in the file *path*; raise ImagebuilderError when it is missing or unreadable."""
    try:
        return parse_lock(path.read_text(), source=path.name)
    except FileNotFoundError as error:
        raise ImagebuilderError(
            f"there is no lock {path.name}", hint=f"imagebuilder lock -t {path.stem}.toml"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ImagebuilderError(f"{path.name} cannot be read: {error}") from error


def changes(old: Lock | None, new: Lock) -> tuple[str, ...]:
    """Return what differs in *new*, a line each: ``+ name version``, ``- name version``, ``name old -> new``."""
    before = {package.name: package for package in old.packages} if old else {}
    after = {package.name: package for package in new.packages}
    lines: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        lines += _change(before.get(name), after.get(name))
    return tuple(lines)


def _change(old: LockedPackage | None, new: LockedPackage | None) -> Iterable[str]:
    if old is None and new is not None:
        return [f"+ {new}"]
    if new is None and old is not None:
        return [f"- {old}"]
    if old is not None and new is not None and old.sha256 != new.sha256:
        security = " (security)" if new.archive is Archive.SECURITY else ""
        return [f"  {new.name} {old.version} -> {new.version}{security}"]
    return []
