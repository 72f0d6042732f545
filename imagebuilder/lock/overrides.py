"""The file of overrides beside a topology: packages that must have one version, or stay as they are. Reads it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from imagebuilder.errors import Problem
from imagebuilder.lock.model import Lock
from imagebuilder.topology.explain import suggestion
from imagebuilder.topology.load import read_toml, validated
from imagebuilder.topology.model import Model


def _debian_version(version: str) -> str:
    # Debian Policy section 5.6.12
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~:-]*", version):
        raise ValueError("a version of a Debian package is wanted, as in '1:2.4.1-6'")
    return version


Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class Hold(Model):
    """The package keeps the version that is locked, whatever the archives have."""

    reason: Reason
    """Why; the lock notes it."""


class Pin(Model):
    """The package gets just this version."""

    version: Annotated[str, AfterValidator(_debian_version)]
    """As Debian writes it, with its epoch: ``1:2.4.1-6``."""
    reason: Reason
    """Why; the lock notes it."""


class Overrides(Model):
    """What the file says."""

    hold: Mapping[str, Hold] = Field(default_factory=dict)
    """By the package's name."""
    pin: Mapping[str, Pin] = Field(default_factory=dict)
    """By the package's name."""

    def reasons(self, name: str) -> dict[str, str | None]:
        """Return what the lock notes of package *name*."""
        pin, hold = self.pin.get(name), self.hold.get(name)
        return {"pinned": pin.reason if pin else None, "held": hold.reason if hold else None}

    def kept(self, old: Lock | None) -> dict[str, str]:
        """Return the only version that each package named here may have; those held are as in *old*."""
        locked = old.by_name if old else {}
        held = {name: locked[name].version for name in self.hold if name in locked}
        return held | {name: pin.version for name, pin in self.pin.items()}


@dataclass(frozen=True)
class Known:
    """What the archives have."""

    versions: Mapping[str, tuple[str, ...]]
    """Of each package named in the overrides that exists."""
    names: Iterable[str]
    """Of all packages, for a better guess at what was meant."""


HINT = 'an entry is [pin.NAME] with version = "…" and reason = "…", or [hold.NAME] with reason = "…"'


def read_overrides(path: Path) -> Overrides:
    """Return what the file *path* says, nothing when there is none; raise WrongInputError with all that is wrong."""
    if not path.exists():
        return Overrides()
    return validated(path, read_toml(path, hint=HINT), Overrides, hint=HINT)


def problems_of(overrides: Overrides, *, old: Lock | None, known: Known, fixed: Iterable[str]) -> tuple[Problem, ...]:
    """Return everything in *overrides* that can't be; *fixed* are packages that no operator can change."""
    found: list[Problem] = []
    locked = old.by_name if old else {}
    for name in (*overrides.hold, *overrides.pin):
        place = f"{'hold' if name in overrides.hold else 'pin'}.{name}"
        if name in fixed:
            found.append(Problem(place, "this package is fixed by imagebuilder itself"))
        elif name not in known.versions and name not in locked:
            found.append(
                Problem(place, f"no such package in the archives{suggestion(name, likely(name, known.names))}")
            )
    for name in sorted(overrides.hold.keys() & overrides.pin.keys()):
        found.append(Problem(f"pin.{name}", "it is held as well; one of both must go"))
    for name in overrides.hold:
        if name in known.versions and name not in locked:
            found.append(Problem(f"hold.{name}", "nothing is locked that could be held; pin it instead"))
    for name, pin in overrides.pin.items():
        versions = known.versions.get(name, ())
        if versions and pin.version not in (*versions, locked[name].version if name in locked else ""):
            said = f"{pin.version!r} is not in the archives, which have {' and '.join(versions)}"
            found.append(Problem(f"pin.{name}.version", said))
    return tuple(found)


def unmet(overrides: Overrides, lock: Lock) -> tuple[Problem, ...]:
    """Return which *overrides* have come after *lock* was made. Pure."""
    found: list[Problem] = []
    locked = lock.by_name
    for name in (*overrides.hold, *overrides.pin):
        package, place = locked.get(name), f"{'hold' if name in overrides.hold else 'pin'}.{name}"
        if package is None or {"pinned": package.pinned, "held": package.held} != overrides.reasons(name):
            found.append(Problem(place, "the lock was made without it"))
    return tuple(found)


def likely(name: str, names: Iterable[str]) -> list[str]:
    """Return those of the many *names* that are worth a closer look when *name* is none of them."""
    return [other for other in names if other[:2] == name[:2] and abs(len(other) - len(name)) < 3]
