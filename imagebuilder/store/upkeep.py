"""Keeping a store in order: what may go because nothing needs it, and what is damaged."""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.store.folder import Store, Used
from imagebuilder.store.hashing import sha256_of
from imagebuilder.store.manifest import differing, manifest_of, parse_manifest

OUTPUT = re.compile(r"[0-9a-f]{32}-[a-z0-9-]+")
FILE = re.compile(r"[0-9a-f]{64}")
"""Names of what is ours to remove; whatever else lies there is left alone."""


@dataclass(frozen=True)
class Item:
    """A file or an output of the store."""

    path: Path
    size: int
    """Bytes that it takes on the disk."""

    @property
    def name(self) -> str:
        """``KEY-NAME``, or the SHA-256 of a file."""
        return self.path.name


@dataclass(frozen=True)
class Damage:
    """Something in the store that is not what it was."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Inspection:
    """What re-hashing a store found."""

    files: int
    outputs: int
    """Number looked at."""
    damaged: tuple[Damage, ...]
    unrecorded: tuple[str, ...]
    """Names of outputs without a manifest, made by an earlier version: nobody knows what they should be."""


def garbage(store: Store, used: Used) -> tuple[Item, ...]:
    """Return the outputs and files that are not *used*, by name."""
    found = [path for path in _entries(store, "outputs", OUTPUT) if path.name not in used.outputs]
    found += [path for path in _entries(store, "files", FILE) if path.name not in used.files]
    return tuple(Item(path, size_of(path)) for path in found)


def collect(store: Store, roots: Callable[[], Used], *, dry_run: bool = False) -> tuple[Item, ...]:
    """Remove what neither *roots* nor any running process needs, and return it; with *dry_run*, only return it.

    An output leaves its place at once, so that being killed leaves no half of it.
    """
    with store.collecting(), store.workspace() as workspace:
        used = roots() | store.in_use()
        items = garbage(store, used)
        if dry_run:
            return items
        for number, item in enumerate(items):
            item.path.rename(workspace / str(number))
            remove(workspace / str(number))
        for manifest in _entries(store, "manifests", OUTPUT):
            if manifest.name not in used.outputs:
                manifest.unlink()
    return items


def remove(path: Path) -> None:
    """Remove the file or folder *path*, folders that may not be written included."""
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    for root, folders, _ in os.walk(path):
        for folder in (Path(root), *(Path(root, name) for name in folders)):
            if not folder.is_symlink() and not folder.stat().st_mode & stat.S_IWUSR:
                folder.chmod(0o700)
    shutil.rmtree(path)


def size_of(path: Path) -> int:
    """Return what *path* and all below it take on the disk, in bytes."""
    size = path.lstat().st_blocks * 512
    for root, folders, files in os.walk(path):
        size += sum(Path(root, name).lstat().st_blocks * 512 for name in (*folders, *files))
    return size


def inspect(store: Store) -> Inspection:
    """Re-hash all files and outputs of *store*."""
    files, outputs = list(_entries(store, "files", FILE)), list(_entries(store, "outputs", OUTPUT))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        damaged = [damage for damage in pool.map(_inspect_file, files) if damage]
    recorded = [path for path in outputs if store.manifest(path.name).exists()]
    damaged += [damage for path in recorded for damage in _inspect_output(store, path)]
    unrecorded = tuple(path.name for path in outputs if path not in recorded)
    return Inspection(len(files), len(outputs), tuple(damaged), unrecorded)


def _inspect_file(path: Path) -> Damage | None:
    try:
        found = sha256_of(path)
    except FileNotFoundError:  # collected meanwhile
        return None
    except OSError as error:
        return Damage(path, f"cannot be read: {error.strerror}")
    return None if found == path.name else Damage(path, f"has SHA-256 {found[:16]}…")


def _inspect_output(store: Store, path: Path) -> Iterator[Damage]:
    try:
        told = parse_manifest(store.manifest(path.name).read_text(), source=str(store.manifest(path.name)))
        paths = differing(told, manifest_of(path))
    except FileNotFoundError:
        return
    except OSError as error:
        yield Damage(path, f"cannot be read: {error.strerror}")
        return
    except ImagebuilderError as error:
        yield Damage(path, str(error))
        return
    if paths:
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        yield Damage(path, f"{', '.join(map(str, paths[:3]))}{more} changed since it was made")


def discard(store: Store, damaged: Iterable[Damage]) -> None:
    """Remove what is damaged, so that it is fetched or made anew."""
    with store.collecting(), store.workspace() as workspace:
        for number, damage in enumerate(damaged):
            if damage.path.exists():
                damage.path.rename(workspace / str(number))
                remove(workspace / str(number))


def _entries(store: Store, folder: str, names: re.Pattern[str]) -> Iterator[Path]:
    parent = store.root / folder
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if names.fullmatch(path.name):
            yield path
