"""Locking: ask Debian's archives which packages each closure needs, and write down exactly which."""

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.debian import Apt
from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock import Archive, Closure, Lock, LockedPackage
from imagebuilder.resources import PROFILES

ESSENTIAL = ("?essential ?architecture(amd64)", "base-files")
"""What every Debian system has; apt's own pattern language (apt-patterns(7))."""

MKOSI = LockedPackage(
    name="mkosi",
    version="27.1-1",
    architecture="all",
    sha256="b8cec2f88e217bbfcde6b70605f67ea94069f64c21b1b6a9b88c0e177b23af81",
    size=370332,
    archive=Archive.DEBIAN,
    path="pool/main/m/mkosi/mkosi_27.1-1_all.deb",
    closures=(Closure.TOOLS,),
)
"""The release has an older mkosi, which lacks what we need; this one is pinned whatever the archive has now."""


def profile_packages(profile: str) -> tuple[str, ...]:
    """Return the names in the Packages= lists of the mkosi profile *profile*, in the order of its files."""
    names: list[str] = []
    for path in sorted((PROFILES / profile).rglob("*.conf")):
        names += packages_in(path.read_text())
    return tuple(names)


def packages_in(text: str) -> Iterator[str]:
    """Yield the values of every Packages= in the text of a mkosi settings file. Pure."""
    inside = False
    for line in text.splitlines():
        bare = line.partition("#")[0].rstrip()
        if bare and not bare[0].isspace():
            key, _, value = bare.partition("=")
            inside = key.strip() == "Packages"
            bare = value
        if inside:
            yield from bare.split()


@dataclass(frozen=True)
class Stanza:
    """What an archive index says of one package."""

    fields: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields[name]


def stanzas(text: str) -> Iterator[Stanza]:
    """Yield the stanzas of an index (deb822), continuation lines left out. Pure."""
    for block in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", block, re.MULTILINE))
        if fields:
            yield Stanza(fields)


def planned(output: str) -> tuple[tuple[str, str], ...]:
    """Return (name, version) of each package in what ``apt-get install --print-uris`` printed. Pure."""
    found = []
    for line in output.splitlines():
        if match := re.match(r"'[^']+' ([^_\s]+)_([^_\s]+)_[^_\s]+\.deb ", line):
            found.append((match[1], match[2].replace("%3a", ":")))
    return tuple(found)


def resolve(apt: Apt, wanted: Mapping[Closure, Sequence[str]]) -> Lock:
    """Return the lock of *wanted* (closure to package names) as the archives are now."""
    apt.prepare()
    apt.update()
    members: dict[tuple[str, str], set[Closure]] = {}
    for closure, names in wanted.items():
        printed = apt.run("apt-get", "install", "--print-uris", "-qq", *ESSENTIAL, *names)
        for package in planned(printed):
            members.setdefault(package, set()).add(closure)
    indexed = _indexed(apt, members)
    packages = [_locked(apt, indexed[package], closures, name=package[0]) for package, closures in members.items()]
    by_name = {package.name: package for package in packages} | {MKOSI.name: MKOSI}
    epoch = apt.epoch()
    return Lock(
        epoch=epoch,
        seed=uuid.uuid5(uuid.NAMESPACE_OID, f"imagebuilder {epoch}"),
        packages=tuple(by_name[name] for name in sorted(by_name)),
    )


def _indexed(apt: Apt, wanted: Mapping[tuple[str, str], object]) -> dict[tuple[str, str], Stanza]:
    """Return the index stanza of each wanted (name, version)."""
    text = apt.run("apt-cache", "show", *(f"{name}={version}" for name, version in wanted))
    return {(stanza["Package"], stanza["Version"]): stanza for stanza in stanzas(text)}


def _locked(apt: Apt, stanza: Stanza, closures: set[Closure], *, name: str) -> LockedPackage:
    if "SHA256" not in stanza.fields:
        raise ImagebuilderError(f"the archive gives no SHA-256 for {name}", hint="choose another mirror")
    path = stanza["Filename"]
    return LockedPackage(
        name=name,
        version=stanza["Version"],
        architecture=stanza["Architecture"],
        sha256=stanza["SHA256"],
        size=int(stanza["Size"]),
        # The security archive keeps its pool below pool/updates.
        archive=Archive.SECURITY if path.startswith("pool/updates/") else Archive.DEBIAN,
        path=path,
        closures=tuple(sorted(closures)),
    )


def wanted_packages() -> dict[Closure, tuple[str, ...]]:
    """Return what the profiles ask for, per closure; both roles stand on the base profile."""
    base = profile_packages("base")
    return {
        Closure.TOOLS: profile_packages("tools"),
        Closure.INITRD: profile_packages("initrd"),
        Closure.PROXY: base + profile_packages("proxy"),
        Closure.CLIENT: base + profile_packages("client"),
    }


def resolve_in(folder: Path, mirrors: Mapping[Archive, str]) -> Lock:
    """Return a new lock of everything the profiles ask for; *folder* holds apt's lists meanwhile."""
    return resolve(Apt(folder, mirrors), wanted_packages())
