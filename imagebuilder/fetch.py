"""Getting locked files: from substituters by hash, from the mirrors by apt; each checked before it is kept."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.debian import Apt, snapshots
from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock import Archive, LockedPackage
from imagebuilder.run import ProcessError, say
from imagebuilder.store import Store, sha256_of

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
    substituters: tuple[Path, ...] = ()
    """Folders whose files are known by their hash, whatever their names."""
    snapshot: str | None = None
    """An archive of archives: below it are ``debian/TIME`` and ``debian-security/TIME``, TIME as 20261122T000000Z."""


def substituters_in(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders that IMAGEBUILDER_SUBSTITUTERS names."""
    named = environment.get("IMAGEBUILDER_SUBSTITUTERS", "")
    return tuple(Path(part).absolute() for part in named.split(":") if part)


def fetch(store: Store, packages: Iterable[LockedPackage], sources: Sources, *, states: Sequence[int] = ()) -> None:
    """Bring every package into *store*; raise MissingFilesError naming all that could not be had.

    *states* are the dates (Unix seconds) at which a snapshot archive may have what the mirrors have dropped.
    """
    missing = {package.sha256: package for package in packages if not store.has_file(package.sha256)}
    if not missing:
        return
    for folder in sources.substituters:
        for sha256, path in in_substituter(folder, missing.values()).items():
            with store.workspace() as workspace:
                store.add_file(Path(shutil.copyfile(path, workspace / "file")), sha256)
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
    yield sources.find_mirrors()
    if sources.snapshot:
        yield from snapshots(sources.snapshot, states)


def in_substituter(folder: Path, packages: Iterable[LockedPackage]) -> dict[str, Path]:
    """Return where *folder* has which of *packages*, by SHA-256."""
    wanted: dict[int, set[str]] = {}
    for package in packages:
        wanted.setdefault(package.size, set()).add(package.sha256)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        # Only a file of the right size is worth hashing.
        if not path.is_file() or path.stat().st_size not in wanted:
            continue
        digest = sha256_of(path)
        if digest in wanted[path.stat().st_size]:
            found.setdefault(digest, path)
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
