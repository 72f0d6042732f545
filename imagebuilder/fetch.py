"""Getting locked files: from substituters by hash, from the mirrors by apt; each checked before it is kept."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.debian import Apt
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
            hint="name a folder that has them by --substituter, or lock what the archive has now: imagebuilder lock",
        )
        self.packages = tuple(packages)


@dataclass(frozen=True)
class Sources:
    """Where locked files may come from."""

    find_mirrors: Callable[[], Mapping[Archive, str]]
    """Asked only when something must be fetched: a machine that has everything needs no mirror."""
    substituters: tuple[Path, ...] = ()
    """Folders whose files are known by their hash, whatever their names."""


def substituters_in(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders that IMAGEBUILDER_SUBSTITUTERS names."""
    named = environment.get("IMAGEBUILDER_SUBSTITUTERS", "")
    return tuple(Path(part).absolute() for part in named.split(":") if part)


def fetch(store: Store, packages: Iterable[LockedPackage], sources: Sources) -> None:
    """Bring every package into *store*; raise MissingFilesError naming all that could not be had."""
    missing = {package.sha256: package for package in packages if not store.has_file(package.sha256)}
    if not missing:
        return
    for found in _in_substituters(store, missing.values(), sources.substituters):
        del missing[found]
    todo = sorted(missing.values(), key=lambda package: package.name)
    mirrors = sources.find_mirrors() if todo else {}
    if todo:
        say(f"fetching {len(todo)} packages, {sum(package.size for package in todo) // 10**6} MB")
    for start in range(0, len(todo), BATCH):
        for found in _from_mirrors(store, todo[start : start + BATCH], mirrors):
            del missing[found]
    if missing:
        raise MissingFilesError(sorted(missing.values(), key=lambda package: package.name))


def _in_substituters(store: Store, packages: Iterable[LockedPackage], folders: Sequence[Path]) -> list[str]:
    """Copy in what the substituters have; return the hashes found."""
    wanted = {package.size: set[str]() for package in packages}
    for package in packages:
        wanted[package.size].add(package.sha256)
    found: list[str] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            # Only a file of the right size is worth hashing.
            if not path.is_file() or path.stat().st_size not in wanted:
                continue
            digest = sha256_of(path)
            if digest in wanted[path.stat().st_size] and digest not in found:
                with store.workspace() as workspace:
                    store.add_file(Path(shutil.copyfile(path, workspace / "file")), digest)
                found.append(digest)
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
        if failure and not found and "404" not in failure.output:
            raise ImagebuilderError(
                f"nothing could be fetched from the mirrors: {_first_error(failure.output)}",
                hint="check the network, and that `apt-get update` works on this machine",
            )
    return found


def _first_error(output: str) -> str:
    lines = [line.removeprefix("E: ") for line in output.splitlines() if line.startswith("E:")]
    return lines[0] if lines else "apt-helper gave no reason"
