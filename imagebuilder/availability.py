"""Which locked files each source would still give: asked by name or by hash, next to nothing being downloaded."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from imagebuilder.errors import ImagebuilderError
from imagebuilder.fetch import APT_HELPER, BATCH, Sources, first_error
from imagebuilder.lock.debian import Apt, snapshots
from imagebuilder.lock.model import Archive, Lock, LockedPackage
from imagebuilder.run import ProcessError
from imagebuilder.store.folder import Store


@dataclass(frozen=True)
class Availability:
    """What one source has of a lock."""

    source: str
    """As the operator knows it."""
    asked: frozenset[str]
    """SHA-256 of the files that it could have."""
    there: frozenset[str]
    """SHA-256 of those that it has."""
    error: str | None = None
    """Why it could not be asked."""

    def missing(self, lock: Lock) -> tuple[LockedPackage, ...]:
        """Return the packages that it could have and has not."""
        return tuple(p for p in lock.packages if p.sha256 in self.asked - self.there)

    def __str__(self) -> str:
        if self.error:
            return f"{self.source}: could not be asked: {self.error}"
        return f"{self.source}: has {len(self.there)} of {len(self.asked)}"


def availability(store: Store, lock: Lock, sources: Sources, workspace: Path) -> tuple[Availability, ...]:
    """Return what each source has of *lock*: the store, the mirrors, the snapshot archive and the substituters."""
    everything = frozenset(package.sha256 for package in lock.packages)
    here = frozenset(sha256 for sha256 in everything if store.has_file(sha256))
    found = [Availability(f"store {store.root}", everything, here)]
    found += _of_mirrors(lock, sources, workspace)
    if sources.snapshot:
        found.append(_of_snapshots(lock, sources.snapshot, workspace))
    for substituter in sources.substituters:
        try:
            there = substituter.files((package.sha256, package.size) for package in lock.packages)
            found.append(Availability(f"substituter {substituter}", everything, there))
        except ImagebuilderError as error:
            found.append(Availability(f"substituter {substituter}", everything, frozenset(), str(error)))
    return tuple(found)


def gone(lock: Lock, found: Sequence[Availability]) -> tuple[LockedPackage, ...]:
    """Return the packages that no source has. Pure."""
    there = frozenset[str]().union(*(each.there for each in found))
    return tuple(package for package in lock.packages if package.sha256 not in there)


def rotting(lock: Lock, found: Sequence[Availability]) -> Iterator[str]:
    """Yield a line for each package that some mirror has dropped: where it still is. Pure."""
    mirrors = [each for each in found if each.source.startswith("mirror ") and not each.error]
    for package in lock.packages:
        if any(package.sha256 in each.asked - each.there for each in mirrors):
            where = ", ".join(each.source for each in found if package.sha256 in each.there)
            yield f"{package}: not on its mirror; {f'still in {where}' if where else 'to be had nowhere'}"


def _of_mirrors(lock: Lock, sources: Sources, workspace: Path) -> Iterator[Availability]:
    try:
        mirrors = sources.find_mirrors()
    except ImagebuilderError as error:
        everything = frozenset(package.sha256 for package in lock.packages)
        yield Availability("mirrors", everything, frozenset(), str(error))
        return
    for archive, mirror in mirrors.items():
        packages = [package for package in lock.packages if package.archive is archive]
        asked = frozenset(package.sha256 for package in packages)
        try:
            yield Availability(f"mirror {mirror}", asked, asked & _on_mirror(packages, mirrors, workspace))
        except ImagebuilderError as error:
            yield Availability(f"mirror {mirror}", asked, frozenset(), str(error))


def _of_snapshots(lock: Lock, base: str, workspace: Path) -> Availability:
    """Return what the snapshot archive has at any of the times when something was locked."""
    asked, there = frozenset(package.sha256 for package in lock.packages), frozenset[str]()
    try:
        for mirrors in snapshots(base, lock.states):
            there |= _on_mirror([p for p in lock.packages if p.sha256 not in there], mirrors, workspace)
    except ImagebuilderError as error:
        return Availability(f"snapshot archive {base}", asked, there, str(error))
    return Availability(f"snapshot archive {base}", asked, there)


def _on_mirror(packages: Sequence[LockedPackage], mirrors: Mapping[Archive, str], workspace: Path) -> frozenset[str]:
    """Return the SHA-256 of those *packages* that the mirrors have with the right size.

    apt asks, as it knows this machine's proxies. It is told to expect one byte, so that it stops at the answer's
    header, and then names the size found.
    """
    there: set[str] = set()
    apt = Apt(workspace / "apt", mirrors)
    apt.prepare()
    for start in range(0, len(packages), BATCH):
        argv: list[str] = []
        uris = {f"{mirrors[package.archive]}/{package.path}": package for package in packages[start : start + BATCH]}
        for uri, package in uris.items():
            argv += [uri, str(workspace / "probe" / package.sha256), "Checksum-FileSize:1"]
        (workspace / "probe").mkdir(exist_ok=True)
        try:
            apt.run(APT_HELPER, "-o", "Acquire::Retries=0", "download-file", *argv, timeout_s=600)
        except ProcessError as error:
            sizes = sizes_in(error.output)
            if not sizes and not re.search(r"404|not found", error.output, re.IGNORECASE):
                raise ImagebuilderError(first_error(error.output)) from error
            there |= {package.sha256 for uri, package in uris.items() if sizes.get(unquote(uri)) == package.size}
    return frozenset(there)


def sizes_in(output: str) -> dict[str, int]:
    """Return the sizes by URI (apt escapes what it likes, so: unescaped) that were found instead of one byte. Pure."""
    found: dict[str, int] = {}
    for part in output.split("E: Failed to fetch ")[1:]:
        uri, _, said = part.partition(" ")
        if size := re.search(r"unexpected size \((\d+) != 1\)|Hashes of received file:(?:.|\n)*- Filesize:(\d+)", said):
            found[unquote(uri)] = int(size[1] or size[2])
    return found
