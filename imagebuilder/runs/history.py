"""Past runs of the acceptance tests: a folder each in the store, with its record. Owns STORE/runs."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.runs.record import Record
from imagebuilder.store.folder import Store
from imagebuilder.writing import write_whole

RECORD, PAGE, JUNIT = "run.json", "report.html", "junit.xml"
KEPT = "kept-disks"
"""Folder in a run whose machines' disks are to stay; such a run is never removed by us."""
RUNS_MAX = 50
"""So many finished runs are kept, of all topologies together."""


class NoSuchRunError(ImagebuilderError):
    """A run was named that does not exist."""

    status = ExitStatus.WRONG_INPUT


@dataclass(frozen=True)
class PastRun:
    """A run that came to its end, and its folder."""

    folder: Path
    record: Record

    @property
    def page(self) -> Path:
        """The report for people."""
        return self.folder / PAGE


@dataclass(frozen=True)
class History:
    """All runs that a store remembers."""

    store: Store

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.store.root / "runs"

    def new_run(self) -> Path:
        """Return a new folder for a run, named by its time (UTC)."""
        name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
        for number in range(100):
            folder = self.folder / (f"{name}.{number}" if number else name)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder.resolve()
        raise AssertionError(name)

    def all(self, topology_key: str | None = None) -> tuple[PastRun, ...]:
        """Return the finished runs, of one topology or of all, the oldest first."""
        return tuple(run for run in self._runs() if topology_key in (None, run.record.topology_key))

    def find(self, name: str, topology_key: str | None = None) -> PastRun:
        """Return the run called *name*, or whose only beginning it is; "latest" is the newest of the topology's."""
        runs = self.all(topology_key if name == "latest" else None)
        if name == "latest":
            found = runs[-1:]
        else:
            found = tuple(run for run in runs if run.folder.name == name) or tuple(
                run for run in runs if run.folder.name.startswith(name)
            )
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(run.folder.name for run in found)
            raise NoSuchRunError(f"{name!r} is the beginning of several runs: {names}")
        raise NoSuchRunError(
            f"there is no run {name!r}" if runs else "there is no run yet",
            hint="imagebuilder report lists those there are" if runs else "imagebuilder test makes one",
        )

    def keep(self, record: Record, folder: Path) -> Path:
        """Write *record* into *folder*, whole or not at all, and return its file; remove what is too old."""
        write_whole(folder / RECORD, record.model_dump_json(indent=1).encode() + b"\n")
        self.forget_the_oldest()
        return folder / RECORD

    def forget_the_oldest(self, most: int = RUNS_MAX) -> tuple[Path, ...]:
        """Remove all but the newest *most* finished runs, and return what was removed."""
        finished = [folder for folder in self._folders() if (folder / RECORD).exists() and not (folder / KEPT).exists()]
        removed = finished[: max(0, len(finished) - most)]
        for folder in removed:
            shutil.rmtree(folder, ignore_errors=True)
        return tuple(removed)

    def _folders(self) -> list[Path]:
        return sorted(folder for folder in self.folder.iterdir() if folder.is_dir()) if self.folder.is_dir() else []

    def _runs(self) -> Iterator[PastRun]:
        for folder in self._folders():
            # One without a record runs still, or was stopped; one of another version is not ours to read.
            with contextlib.suppress(FileNotFoundError, ValidationError):
                yield PastRun(folder, Record.model_validate_json((folder / RECORD).read_bytes()))


def durations(runs: tuple[PastRun, ...]) -> dict[str, float]:
    """Return how many seconds each test took in the bed when it last ran to its end. Pure."""
    bed = (run.record for run in runs if not run.record.deployed)
    return {test.id: test.seconds for record in bed for test in record.tests if test.seconds > 0}
