"""Known vulnerabilities of an image's packages, from Debian's security data in debsecan's format. Pure.

The format and its meaning are those of debsecan 0.4: after the line ``VERSION 1`` three sections that end with an
empty line: names (name, flags, description), packages (package, number of the name, flags, version fixed in unstable,
other versions that are not vulnerable), and the binary packages of each source package, which we know better.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from debian.debian_support import Version

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.sbom.components import Component, Ecosystem

HEADER = "VERSION 1"
GZIP_MAGIC, ZLIB_MAGIC = b"\x1f\x8b", b"\x78"
AUTOMATIC = 32 + zlib.MAX_WBITS
"""Lets zlib find out which of both forms it is."""
MAX_BYTES = 2**28
"""Of the text; Debian's has some 30 MiB."""


class Urgency(IntEnum):
    """How bad Debian deems it."""

    UNKNOWN = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3

    def __str__(self) -> str:
        return self.name.lower()


URGENCIES = {" ": Urgency.UNKNOWN, "L": Urgency.LOW, "M": Urgency.MEDIUM, "H": Urgency.HIGH}


class WrongDataError(ImagebuilderError):
    """What the operator named is not security data."""

    status = ExitStatus.WRONG_INPUT


@dataclass(frozen=True)
class Advisory:
    """A vulnerability of one package."""

    name: str
    """As in CVE-2026-12345."""
    description: str
    package: str
    """A source package, or with *binary* a binary one."""
    binary: bool
    urgency: Urgency
    remote: bool
    """Whether it is known to be exploitable over the network."""
    fix_available: bool
    """Whether the release that the data is of has a fixed version."""
    unstable_version: Version | None
    """First fixed version in unstable; None when there is none."""
    other_versions: tuple[Version, ...]
    """Further versions that are not vulnerable, of any release."""

    def affects(self, component: Component) -> bool:
        """Say whether *component* is vulnerable."""
        if self.binary and component.name == self.package:
            return self.unstable_version is None or Version(component.version) < self.unstable_version
        if component.source != self.package:
            return False
        version = Version(component.source_version)
        before_fix = self.unstable_version is None or version < self.unstable_version
        return before_fix and version not in self.other_versions

    def fixed_after(self, version: str) -> str:
        """Return the lowest fixed version above *version*, or nothing when none is known."""
        known = [*self.other_versions, *([self.unstable_version] if self.unstable_version else [])]
        later = [candidate for candidate in known if candidate > Version(version)]
        return str(min(later)) if later else ""


@dataclass(frozen=True)
class Finding:
    """A vulnerability that an image has."""

    name: str
    description: str
    urgency: Urgency
    remote: bool
    source: str
    """The package as Debian's data has it, mostly a source package."""
    version: str
    """Of it in the image."""
    fixed: str
    """Lowest version above it that is not vulnerable, of any release; empty when none is known."""
    fix_available: bool
    """Whether the release that the data is of has a fixed version."""
    components: tuple[Component, ...]
    """What of it the image has."""

    def __str__(self) -> str:
        packages = ", ".join(component.name for component in self.components)
        fixed = f"fixed in {self.fixed}" if self.fixed else "no fixed version is known"
        elsewhere = "" if self.fix_available or not self.fixed else ", not in the release of this data"
        remote = ", remote" if self.remote else ""
        return f"{self.name}  {self.urgency}{remote}  {self.source} {self.version} ({packages}): {fixed}{elsewhere}"


def unpacked(content: bytes, *, source: str) -> str:
    """Return the text of *content*, which may be compressed by gzip or, as Debian's tracker sends it, by zlib."""
    try:
        if content.startswith((GZIP_MAGIC, ZLIB_MAGIC)):
            unpacking = zlib.decompressobj(wbits=AUTOMATIC)
            content = unpacking.decompress(content, MAX_BYTES)
            if not unpacking.eof:
                raise WrongDataError(f"{source} is damaged: it ends too early, or is larger than any such data")
        return content.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise WrongDataError(f"{source} is damaged: {error}") from error


def parse(text: str, *, source: str) -> tuple[Advisory, ...]:
    """Return what *text* says; raise WrongDataError naming *source* and the line that is wrong."""
    lines = iter(enumerate(text.split("\n"), start=1))
    _, first = next(lines)
    if first != HEADER:
        raise WrongDataError(
            f"{source} is not in debsecan's format: it begins with {first[:40]!r}, not {HEADER!r}",
            hint="take the file that debsecan downloads for this release",
        )
    names = [(line.split(",", 2), number) for number, line in _section(lines)]
    for fields, number in names:
        if len(fields) != 3:
            raise _wrong(source, number)
    return tuple(_advisory(line, number, [fields for fields, _ in names], source) for number, line in _section(lines))


def _section(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if not line:
            return
        yield number, line


def _advisory(line: str, number: int, names: Sequence[Sequence[str]], source: str) -> Advisory:
    try:
        package, index, flags, unstable, other = line.split(",", 4)
        if int(index) < 0 or len(flags) < 4:
            raise _wrong(source, number)
        name, _, description = names[int(index)]
        return Advisory(
            name=name,
            description=description,
            package=package,
            binary=flags[0] == "B",
            urgency=URGENCIES[flags[1]],
            remote=flags[2] == "R",
            fix_available=flags[3] == "F",
            unstable_version=Version(unstable) if unstable else None,
            other_versions=tuple(Version(version) for version in other.split()),
        )
    except (ValueError, IndexError, KeyError) as error:
        raise _wrong(source, number) from error


def _wrong(source: str, number: int) -> WrongDataError:
    return WrongDataError(f"{source}:{number}: this line is not in debsecan's format")


def findings(components: Iterable[Component], advisories: Iterable[Advisory]) -> tuple[Finding, ...]:
    """Return what *advisories* say of *components*, the most urgent first."""
    by_package = _by_package(components)
    found = []
    for advisory in advisories:
        affected = [c for c in by_package.get(advisory.package, ()) if advisory.affects(c)]
        for version in sorted({_version(advisory, component) for component in affected}):
            found.append(
                Finding(
                    advisory.name,
                    advisory.description,
                    advisory.urgency,
                    advisory.remote,
                    advisory.package,
                    version,
                    advisory.fixed_after(version),
                    advisory.fix_available,
                    tuple(c for c in affected if _version(advisory, c) == version),
                )
            )
    return tuple(sorted(found, key=lambda finding: (-finding.urgency, finding.name, finding.source)))


def _version(advisory: Advisory, component: Component) -> str:
    return component.version if advisory.binary else component.source_version


def _by_package(components: Iterable[Component]) -> Mapping[str, Sequence[Component]]:
    found = defaultdict(list)
    for component in components:
        if component.ecosystem is Ecosystem.DEBIAN:
            for name in {component.name, component.source}:
                found[name].append(component)
    return found
