"""Booted pairs at rest, kept from run to run so that nothing boots twice. Owns one private folder of the store.

Nothing in a kept pair ever changes. A run holds those it uses by a shared lock; whoever removes one needs it alone.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagebuilder.errors import ImagebuilderError
from imagebuilder.secrets.vault import write_private
from imagebuilder.topology import Role
from imagebuilder.vm.qemu import Memory
from imagebuilder.vm.waiting import hold_alone

KEPT_MOST = 4
"""Pairs that are kept: of two topologies, say, two generations each."""
OLD_S = 14 * 86400
"""An older pair boots afresh: certificates and signatures in its memory come to their end."""
FACTS = "facts.json"
BOOTING_S = 3600.0
"""Seconds to wait for another run that boots a pair; its own deadlines are shorter."""
LISTING_S = 300.0
"""Seconds to wait for another run that looks through the kept pairs, or removes some."""


@dataclass(frozen=True)
class Saved:
    """A booted pair at rest: disks that nobody writes to any more, and the memories that go with them."""

    folder: Path

    def disk(self, role: Role) -> Path:
        """Return the disk of *role*: what was written over its image."""
        return self.folder / f"{role}.qcow2"

    def variables(self, role: Role) -> Path:
        """Return the UEFI variables of *role*."""
        return self.folder / f"{role}.variables"

    def memory(self, role: Role) -> Memory:
        """Return the memory of *role*."""
        return Memory(self.folder / f"{role}.ram", self.folder / f"{role}.state")

    def story(self, role: Role) -> tuple[Path, Path]:
        """Return console and journal of *role* up to then."""
        return self.folder / f"{role}.console.txt", self.folder / f"{role}.journal.txt"

    def facts(self) -> dict[str, Any]:
        """Return what was told of it when it was kept."""
        facts: dict[str, Any] = json.loads((self.folder / FACTS).read_text())["facts"]
        return facts

    @property
    def bytes_on_disk(self) -> int:
        """What it takes of the disk, holes not counted."""
        return sum(path.stat().st_blocks * 512 for path in self.folder.iterdir())


def key_of(parts: Mapping[str, str]) -> str:
    """Return the name of a pair that *parts* determine. Pure."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()[:32]


@dataclass
class Snapshots:
    """The kept pairs in *root*, for one run; close it at the run's end."""

    root: Path
    _held: dict[Path, int] = field(default_factory=dict)

    def find(self, parts: Mapping[str, str]) -> Saved | None:
        """Return the pair that *parts* determine, held until this is closed, or None."""
        with self._alone():
            self._remove_old()
            folder = self.root / key_of(parts)
            return Saved(folder) if self._hold(folder) else None

    def difference(self, parts: Mapping[str, str]) -> str:
        """Return in which parts the kept pair that is most like them differs, for telling why it boots."""
        differing: list[list[str]] = []
        for folder in self._all():
            kept = self._parts(folder)
            differing.append([name for name in {**kept, **parts} if kept.get(name) != parts.get(name)])
        return ", ".join(min((len(names), names) for names in differing)[1]) if differing else "none is kept yet"

    @contextlib.contextmanager
    def booting(self) -> Iterator[None]:
        """Wait until nobody else boots a pair: one like this will have been kept then, and two at once take far longer
        than one after the other.
        """
        with self._alone():
            place = (self.root / "booting").open("w")
        with place:
            hold_alone(place, "the end of another pair's boot", within_s=BOOTING_S)
            yield

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """Give a folder beside the kept ones; what is in it is removed unless *keep* was called for it."""
        with self._alone():
            folder = Path(tempfile.mkdtemp(prefix=".new.", dir=self.root))
            self._held[folder] = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._held[folder], fcntl.LOCK_SH)
        try:
            yield folder
        finally:
            self._release(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, draft: Path, parts: Mapping[str, str], facts: Mapping[str, object]) -> Saved:
        """Keep what is in *draft* under *parts*, and return it, held; or what another run kept there meanwhile."""
        folder = self.root / key_of(parts)
        write_private(draft / FACTS, json.dumps({"parts": dict(parts), "facts": dict(facts)}))
        for path in draft.iterdir():
            path.chmod(0o600)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        with self._alone():
            with contextlib.suppress(OSError):  # there is one already
                draft.rename(folder)
            if not self._hold(folder):
                raise ImagebuilderError(f"the booted pair can't be kept in {folder}")
            self._remove_old()
        return Saved(folder)

    def drop(self, saved: Saved) -> None:
        """Remove *saved*, which turned out not to work, unless another run uses it."""
        self._release(saved.folder)
        with self._alone():
            self._remove(saved.folder)

    def close(self) -> None:
        """Let go of all that was held."""
        for folder in tuple(self._held):
            self._release(folder)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other run adds or removes anything."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            hold_alone(lock, "the list of kept pairs", within_s=LISTING_S)
            yield

    def _all(self) -> list[Path]:
        """Return the kept ones, the last used first."""
        kept = [path for path in self.root.iterdir() if (path / FACTS).is_file() and not path.name.startswith(".")]
        return sorted(kept, key=lambda path: path.stat().st_mtime, reverse=True)

    def _parts(self, folder: Path) -> dict[str, str]:
        with contextlib.suppress(OSError):
            parts: dict[str, str] = json.loads((folder / FACTS).read_text())["parts"]
            return parts
        return {}

    def _hold(self, folder: Path) -> bool:
        if folder in self._held:
            return True
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:  # not there, or another user's
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            (folder / FACTS).stat()
            os.utime(folder)
        except OSError:  # it is being removed
            os.close(descriptor)
            return False
        self._held[folder] = descriptor
        return True

    def _release(self, folder: Path) -> None:
        if (descriptor := self._held.pop(folder, None)) is not None:
            os.close(descriptor)

    def _remove_old(self) -> None:
        now, kept = time.time(), self._all()
        for number, folder in enumerate(kept):
            with contextlib.suppress(FileNotFoundError):
                if number >= KEPT_MOST or (folder / FACTS).stat().st_mtime < now - OLD_S:
                    self._remove(folder)
        for folder in self.root.glob(".*"):
            self._remove(folder)  # what a killed run left

    def _remove(self, folder: Path) -> None:
        """Remove *folder* in two steps, so that nobody sees half of it, unless somebody holds it."""
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                gone = folder if folder.name.startswith(".") else folder.with_name(f".gone.{folder.name}")
                folder.rename(gone)
                shutil.rmtree(gone)
            finally:
                os.close(descriptor)
