"""The content-addressed store: what was fetched and what was built, each present whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import NO_ROOM, NOT_ALLOWED, ImagebuilderError
from imagebuilder.plan import Derivation, Recorded
from imagebuilder.run import ProcessError, run, say
from imagebuilder.store.hashing import sha256_of
from imagebuilder.store.manifest import manifest_of
from imagebuilder.writing import write_whole

UNWRITABLE = (*NO_ROOM, *NOT_ALLOWED, errno.ENOTDIR, errno.EEXIST)
"""Failures that the operator mends, not we."""


@dataclass(frozen=True)
class Used:
    """What must stay in the store."""

    outputs: frozenset[str] = frozenset()
    """Their names: ``KEY-NAME``."""
    files: frozenset[str] = frozenset()
    """Their SHA-256."""

    def __or__(self, other: "Used") -> "Used":
        return Used(self.outputs | other.outputs, self.files | other.files)


_held: list[object] = []
"""Open files whose locks say, until this process ends, what it uses."""


@dataclass(frozen=True)
class Store:
    """A folder of ``files/SHA256``, ``outputs/KEY-NAME/`` and ``manifests/KEY-NAME``; nothing in it ever changes."""

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
                _remove(folder)

    def path(self, derivation: Derivation | Recorded) -> Path:
        """Return where the output of *derivation* is, or will be."""
        return self.root / "outputs" / str(derivation)

    def has(self, derivation: Derivation | Recorded) -> bool:
        """Say whether the output of *derivation* is present."""
        return self.path(derivation).is_dir()

    def manifest(self, derivation: Derivation | Recorded | str) -> Path:
        """Return where the digests of everything in the output of *derivation* are, or will be."""
        return self.root / "manifests" / str(derivation)

    def output(
        self,
        derivation: Derivation | Recorded,
        make: Callable[[Path], Mapping[str, str] | None],
        *,
        doing: str = "building",
    ) -> Path:
        """Return the folder that *make* fills for *derivation*, making it only when it is not there yet.

        Runs that want the same output at the same time make it once: the others wait. *make* may return the
        SHA-256 of files, by relative path, that it has taken already.
        """
        target = self.path(derivation)
        if target.is_dir():
            return target
        with self._refusal_explained(), self._alone(derivation.key):
            if target.is_dir():
                return target
            say(f"{doing} {derivation.name}")
            with self.workspace() as workspace:
                folder = workspace / "output"
                folder.mkdir()
                text = str(manifest_of(folder, known=make(folder)))
                _flush(folder)
                # The manifest first: an output that is there has one.
                manifest = self.manifest(derivation)
                manifest.parent.mkdir(parents=True, exist_ok=True)
                write_whole(manifest, text.encode(), by=workspace / manifest.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(target)
        return target

    def use(self, used: Used) -> None:
        """Keep *used* from being collected, whether it is there already or not, until this process ends.

        Waits while something is being collected, so ask for what is there afterwards.
        """
        with self._refusal_explained(), self._alone("collection", shared=True):
            folder = self.root / "used"
            folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.NamedTemporaryFile("w", dir=folder, delete=False)  # noqa: SIM115 (open until the end)
            fcntl.flock(file, fcntl.LOCK_SH)
            json.dump({"outputs": sorted(used.outputs), "files": sorted(used.files)}, file)
            file.flush()
            _held.append(file)

    def in_use(self) -> Used:
        """Return what running processes use; forget what those had that ended. To be called while collecting."""
        found = Used()
        for path in (self.root / "used").glob("*"):
            with path.open("r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                except BlockingIOError:
                    told = json.load(file)
                    found |= Used(frozenset(told["outputs"]), frozenset(told["files"]))
        return found

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Let nobody begin to use anything meanwhile."""
        with self._refusal_explained(), self._alone("collection"):
            yield

    @contextlib.contextmanager
    def _alone(self, what: str, *, shared: bool = False) -> Iterator[None]:
        """Wait until nobody else does *what*; others that share it may, if *shared*."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / what).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    def _clear_abandoned(self, parent: Path) -> None:
        """Remove workspaces whose run was killed: nobody holds their lock."""
        for folder in parent.iterdir():
            with contextlib.suppress(BlockingIOError, FileNotFoundError), (folder / ".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)

    @contextlib.contextmanager
    def _refusal_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise self._unwritable(error.strerror) from error
        except ProcessError as error:
            # Programs say it in their own ways, but all by these words, as no locale translates them here.
            for number in NO_ROOM:
                if os.strerror(number) in error.output:
                    raise self._unwritable(os.strerror(number)) from error
            raise

    def _unwritable(self, reason: str | None) -> ImagebuilderError:
        return ImagebuilderError(
            f"the store {self.root} cannot be written: {reason}",
            hint="make room, or name another folder by IMAGEBUILDER_STORE",
        )


def _remove(folder: Path) -> None:
    """Remove *folder*, and what a build that was killed left in there as other users of its namespace."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() and os.geteuid() != 0:
        with contextlib.suppress(ImagebuilderError):
            run(["unshare", "--user", "--map-root-user", "--map-auto", "--", "rm", "-rf", str(folder)])


def _flush(folder: Path) -> None:
    """Bring everything in *folder* to the disk before it gets its final name."""
    if any(path.is_dir() for path in folder.iterdir()):
        # Far quicker than one by one when there are thousands.
        run(["sync", "--file-system", str(folder)])
        return
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
