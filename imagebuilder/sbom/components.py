"""What images consist of: Debian and npm packages, with their sources and licences. Pure."""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from debian.copyright import Copyright, FilesParagraph
from debian.copyright import Error as CopyrightError

from imagebuilder.lock.model import LockedPackage

# What the library finds odd in a copyright file is nothing that our operator could mend.
logging.getLogger("debian.copyright").addHandler(logging.NullHandler())

SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")
"""The field Source of a binary package (Debian policy 5.6.1)."""


class Ecosystem(StrEnum):
    """Where a component comes from."""

    DEBIAN = "debian"
    NPM = "npm"


@dataclass(frozen=True)
class Component:
    """One package of an image."""

    ecosystem: Ecosystem
    name: str
    version: str
    digest: str
    """SHA-256 in hexadecimal, or npm's integrity."""
    purposes: tuple[str, ...]
    """Closures it is in: the role's own, initrd, boot; for npm the folder that it is in."""
    architecture: str = ""
    source: str = ""
    """Debian source package."""
    source_version: str = ""
    licences: tuple[str, ...] = ()
    """As the package names them, sorted; empty when it doesn't in a form that can be read."""


def npm_components(lock: str, installed: Iterable[str]) -> tuple[Component, ...]:
    """Return the npm packages of *lock* that are *installed*, paths below node_modules; one per name and version.

    The same package may be installed in several places.
    """
    places: dict[tuple[str, str], list[str]] = {}
    facts: dict[tuple[str, str], Mapping[str, Any]] = {}
    packages = json.loads(lock)["packages"]
    for path in sorted(installed):
        entry = packages[f"node_modules/{path}"]
        known = path.rpartition("node_modules/")[2], str(entry["version"])
        places.setdefault(known, []).append(path)
        facts[known] = entry
    return tuple(
        Component(
            Ecosystem.NPM,
            name,
            version,
            str(facts[name, version].get("integrity", "")),
            tuple(paths),
            licences=(facts[name, version]["license"],) if "license" in facts[name, version] else (),
        )
        for (name, version), paths in sorted(places.items())
    )


def source_of(control: Mapping[str, str], package: LockedPackage) -> tuple[str, str]:
    """Return the source package and its version that *control* of *package* names; left out, they are its own."""
    found = SOURCE.fullmatch(control.get("Source", package.name).strip())
    name, version = found.groups() if found else (package.name, None)
    return name, version or package.version


def licences_in(text: str) -> list[str]:
    """Return the licences that a copyright file names, sorted; none when machines can't read it."""
    try:
        paragraphs = list(Copyright(text.splitlines(), strict=False).all_files_paragraphs())
    except (CopyrightError, ValueError):
        return []
    return sorted({_licence(paragraph) for paragraph in paragraphs} - {""})


def _licence(paragraph: FilesParagraph) -> str:
    """Return the licence's name, its first line: the text may follow (copyright-format 1.0 section 4.2)."""
    try:
        return str(paragraph["License"]).split("\n")[0].strip()
    except KeyError:
        return ""
