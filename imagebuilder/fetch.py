"""Getting locked files: from substituters by hash, from the mirrors by apt; each checked before it is kept."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock.debian import Apt, snapshots
from imagebuilder.lock.model import Archive, LockedPackage
from imagebuilder.run import ProcessError, say
from imagebuilder.statements.signing import PublicKey
from imagebuilder.store.folder import Store
from imagebuilder.store.hashing import sha256_of
from imagebuilder.store.substituter import Substituter, UnreachableError, locations_in

APT_HELPER = "/usr/lib/apt/apt-helper"
BATCH = 200
"""Files per call of apt-helper, so that an argument list stays far below the kernel's limit."""


class MissingFilesError(ImagebuilderError):
    """Locked files that no source has any more, as *packages*."""

    def __init__(self, packages: Sequence[LockedPackage]) -> None:
        names = ", ".join(str(package) for package in packages[:8])
        more = f" and {len(packages) - 8} more" if len(packages) > 8 else ""
        super().__init__(
            f"no mirror and no substituter has the locked {names}{more}",
            hint="name a folder that has them by --substituter, or lock others instead: imagebuilder lock --update",
        )
        self.packages = tuple(packages)


@dataclass(frozen=True)
class Sources:
    """Where locked files may come from."""

    find_mirrors: Callable[[], Mapping[Archive, str]]
    """Asked only when something must be fetched: a machine that has everything needs no mirror."""
    substituters: tuple[Substituter, ...] = ()
    """Asked before the mirrors."""
    snapshot: str | None = None
    """An archive of archives: below it are ``debian/TIME`` and ``debian-security/TIME``, TIME as 20261122T000000Z."""
    trusted_keys: tuple[PublicKey, ...] = ()
    """Whose signatures make an output of a substituter as good as our own."""
    outputs: bool = True
    """Whether outputs may come from substituters at all; files, known by their hash, may in any case."""


def substituters_in(environment: Mapping[str, str] = os.environ) -> tuple[Substituter, ...]:
    """Return the folders and URLs that IMAGEBUILDER_SUBSTITUTERS names."""
    return tuple(Substituter(location) for location in locations_in(environment.get("IMAGEBUILDER_SUBSTITUTERS", "")))


def fetch(store: Store, packages: Iterable[LockedPackage], sources: Sources, *, states: Sequence[int] = ()) -> None:
    """Bring every package into *store*; raise MissingFilesError naming all that could not be had.

    *states* are the dates (Unix seconds) at which a snapshot archive may have what the mirrors have dropped.
    """
    missing = {package.sha256: package for package in packages if not store.has_file(package.sha256)}
    if not missing:
        return
    for substituter in sources.substituters:
        for sha256 in _from_substituter(store, tuple(missing.values()), substituter):
            del missing[sha256]
    if missing:
        say(f"fetching {len(missing)} packages, {sum(package.size for package in missing.values()) // 10**6} MB")
    for mirrors in _archives(sources, states) if missing else ():
        todo = sorted(missing.values(), key=lambda package: package.name)
        for start in range(0, len(todo), BATCH):
            for found in _from_mirrors(store, todo[start : start + BATCH], mirrors):
                del missing[found]
        if not missing:
            return
    if missing:
        raise MissingFilesError(sorted(missing.values(), key=lambda package: package.name))


def _archives(sources: Sources, states: Sequence[int]) -> Iterator[Mapping[Archive, str]]:
    """Yield where the archives are, one place after another."""
    if mirrors := sources.find_mirrors():
        yield mirrors
    if sources.snapshot:
        yield from snapshots(sources.snapshot, states)


def _from_substituter(store: Store, packages: Sequence[LockedPackage], substituter: Substituter) -> list[str]:
    """Copy in what *substituter* has, and return the hashes that came; one that can't be reached is passed over."""
    sizes = {package.sha256: package.size for package in packages}
    found: list[str] = []
    try:
        paths = substituter.paths(sizes.items())
        for sha256 in paths if substituter.folder else sorted(substituter.files(sizes.items())):
            with store.workspace() as workspace:
                file = workspace / "file"
                if sha256 in paths:
                    shutil.copyfile(paths[sha256], file)
                elif substituter.get(f"files/{sha256}", file, limit=sizes[sha256]) != sha256:
                    say(f"{substituter} has something else as {sha256[:16]}…: not used")
                    continue
                store.add_file(file, sha256)
            found.append(sha256)
    except UnreachableError as error:
        say(f"{error}; going on without it")
    return found


def _from_mirrors(store: Store, packages: Sequence[LockedPackage], mirrors: Mapping[Archive, str]) -> list[str]:
    """Download *packages* by apt's own means (it knows this machine's proxies); return the hashes that came."""
    found: list[str] = []
    with store.workspace() as workspace:
        apt = Apt(workspace / "apt", mirrors)
        apt.prepare()
        argv: list[str] = []
        for package in packages:
            uri = f"{mirrors[package.archive]}/{package.path}"
            argv += [uri, str(workspace / package.sha256), f"SHA256:{package.sha256}"]
        failure: ProcessError | None = None
        try:
            apt.run(APT_HELPER, "-o", "Acquire::Retries=3", "download-file", *argv, timeout_s=1800)
        except ProcessError as error:
            # apt-helper fails as a whole when one file fails; what did come is taken below.
            failure = error
        for package in packages:
            path = workspace / package.sha256
            if path.exists() and sha256_of(path) == package.sha256:
                store.add_file(path, package.sha256)
                found.append(package.sha256)
        if failure and os.strerror(errno.ENOSPC) in failure.output:
            raise failure
        if failure and (
            tampered := re.search(r"Failed to fetch (\S+) +(?:Hash Sum mis|File has unexp)", failure.output)
        ):
            raise ImagebuilderError(
                f"{tampered[1]} is not the locked file: the mirror has another one under its name",
                hint="name another mirror, or a folder that has the file by --substituter",
            )
        if failure and not found and "404" not in failure.output:
            raise ImagebuilderError(
                f"nothing could be fetched from the mirrors: {first_error(failure.output)}",
                hint="check the network, and that `apt-get update` works on this machine",
            )
    return found


def first_error(output: str) -> str:
    """Return the first thing that an apt program complained of. Pure."""
    lines = [line.removeprefix("E: ") for line in output.splitlines() if line.startswith("E:")]
    return lines[0] if lines else "apt-helper gave no reason"
