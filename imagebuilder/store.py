"""The content-addressed store: what was fetched and what was built, each present whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.plan import Derivation
from imagebuilder.run import say


def default_store() -> Path:
    """Return the folder of the store: IMAGEBUILDER_STORE, or the XDG data folder."""
    if named := os.environ.get("IMAGEBUILDER_STORE"):
        return Path(named).absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(data).absolute() / "imagebuilder"


def sha256_of(path: Path, offset: int = 0, length: int | None = None) -> str:
    """Return the SHA-256 (hex) of the file *path*, or of its *length* bytes from *offset* on.

    Its holes are not read, which for a disk image is most of it.
    """
    digest, zeros = hashlib.sha256(), bytes(BLOCK)
    with path.open("rb", buffering=0) as file:
        size, position = os.fstat(file.fileno()).st_size, offset
        end = size if length is None else min(size, offset + length)
        while position < end:
            try:
                data = min(end, os.lseek(file.fileno(), position, os.SEEK_DATA))
            except OSError:  # nothing but a hole to the end
                data = end
            while position < data:
                step = min(BLOCK, data - position)
                digest.update(zeros[:step])
                position += step
            hole = min(end, os.lseek(file.fileno(), position, os.SEEK_HOLE)) if position < end else end
            file.seek(position)
            while position < hole and (block := file.read(min(BLOCK, hole - position))):
                digest.update(block)
                position += len(block)
    return digest.hexdigest()


BLOCK = 2**20
"""Bytes read at once."""

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
"""Failures that the operator mends, not we."""


@dataclass(frozen=True)
class Store:
    """A folder of ``files/SHA256`` and ``outputs/KEY-NAME/``; nothing in it ever changes."""

    root: Path

    def file(self, sha256: str) -> Path:
        """Return where the file of that hash is, or will be."""
        return self.root / "files" / sha256

    def has_file(self, sha256: str) -> bool:
        """Say whether the file of that hash is present."""
        return self.file(sha256).exists()

    def add_file(self, source: Path, sha256: str) -> Path:
        """Move *source* in under its hash, which must be *sha256*; raise ImagebuilderError when it is not."""
        found = sha256_of(source)
        if found != sha256:
            raise ImagebuilderError(f"{source.name} has SHA-256 {found[:16]}…, expected {sha256[:16]}…")
        target = self.file(sha256)
        with self._refusal_explained():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.chmod(0o444)
            with source.open("rb") as file:
                os.fsync(file.fileno())
            source.replace(target)
        return target

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give a folder in the store's file system that is gone afterwards."""
        parent = self.root / "tmp"
        with self._refusal_explained(), contextlib.ExitStack() as held:
            # Alone, so that nobody takes a folder that is not locked yet for one that was abandoned.
            with self._alone("workspaces"):
                parent.mkdir(parents=True, exist_ok=True)
                self._clear_abandoned(parent)
                folder = Path(tempfile.mkdtemp(dir=parent))
                # mkosi works in here as another user of its user namespace.
                folder.chmod(0o755)
                lock = held.enter_context((folder / ".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def path(self, derivation: Derivation) -> Path:
        """Return where the output of *derivation* is, or will be."""
        return self.root / "outputs" / str(derivation)

    def has(self, derivation: Derivation) -> bool:
        """Say whether the output of *derivation* is present."""
        return self.path(derivation).is_dir()

    def output(self, derivation: Derivation, make: Callable[[Path], None]) -> Path:
        """Return the folder that *make* fills for *derivation*, making it only when it is not there yet.

        Runs that want the same output at the same time make it once: the others wait.
        """
        target = self.path(derivation)
        if target.is_dir():
            return target
        with self._refusal_explained(), self._alone(derivation.key):
            if target.is_dir():
                return target
            say(f"building {derivation.name}")
            with self.workspace() as workspace:
                folder = workspace / "output"
                folder.mkdir()
                make(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                _flush(folder)
                folder.rename(target)
        return target

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """Wait until nobody else does *what*."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / what).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _clear_abandoned(self, parent: Path) -> None:
        """Remove workspaces whose run was killed: nobody holds their lock."""
        for folder in parent.iterdir():
            with contextlib.suppress(BlockingIOError, FileNotFoundError), (folder / ".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _refusal_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise ImagebuilderError(
                f"the store {self.root} cannot be written: {error.strerror}",
                hint="make room, or name another folder by IMAGEBUILDER_STORE",
            ) from error


def _flush(folder: Path) -> None:
    """Bring everything in *folder* to the disk before it gets its final name."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
