"""Generations: every finished build of a topology, with copies of what it was made from. Owns STORE/generations."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from imagebuilder import __version__
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.generations.generation import (
    INPUTS,
    NPM_LOCK,
    PROVENANCE,
    RECORD,
    BuiltImage,
    Generation,
    Record,
    read_generation,
    steps_of,
)
from imagebuilder.plan import NPM_PROJECT, Plan
from imagebuilder.statements.signing import Envelope
from imagebuilder.store.folder import Store
from imagebuilder.store.place import generations_folder
from imagebuilder.topology import Role
from imagebuilder.tree import archive
from imagebuilder.writing import write_whole

__all__ = [
    "NPM_LOCK",
    "RECORD",
    "BuiltImage",
    "Generation",
    "Generations",
    "NoSuchGenerationError",
    "damage",
    "every_topology",
    "keep_provenance",
    "steps_of",
]


class NoSuchGenerationError(ImagebuilderError):
    """A generation was named that does not exist."""

    status = ExitStatus.WRONG_INPUT


@dataclass(frozen=True)
class Generations:
    """All generations of one topology."""

    store: Store
    topology_path: Path
    """The operator's file; generations belong to its place, not to its content."""

    @property
    def folder(self) -> Path:
        """Where they are kept."""
        return generations_folder(self.store.root, self.topology_path)

    def all(self) -> tuple[Generation, ...]:
        """Return every generation, the oldest first."""
        return tuple(generations_in(self.folder))

    def latest(self) -> Generation | None:
        """Return the newest generation, or None before the first build."""
        numbers = _numbers(self.folder)
        return read_generation(self.folder / str(numbers[-1])) if numbers else None

    def find(self, number: int) -> Generation:
        """Return generation *number*; raise NoSuchGenerationError that names those there are."""
        numbers = _numbers(self.folder)
        if number not in numbers:
            raise NoSuchGenerationError(
                f"there is no generation {number} of {self.topology_path}: {_told(numbers)}",
                hint="imagebuilder generations" if numbers else "imagebuilder build makes the first",
            )
        return read_generation(self.folder / str(number))

    def record(
        self,
        plan: Plan,
        images: Mapping[Role, BuiltImage],
        inputs: Mapping[str, bytes],
    ) -> Generation:
        """Return the generation of this build: a new one, or the latest when nothing differs from it.

        *inputs* are the operator's files by the name that the copy gets. It is there whole or not at all.
        """
        for _ in range(1000):
            latest = self.latest()
            if latest is not None and latest.same_as(plan, images, inputs):
                return latest
            number = latest.number + 1 if latest else 1
            with self.store.workspace() as workspace, contextlib.suppress(_TakenError):
                self._write(workspace / "generation", number, plan, images, inputs)
                return read_generation(_moved(workspace / "generation", self.folder / str(number)))
        raise AssertionError(self.folder)

    def _write(
        self,
        folder: Path,
        number: int,
        plan: Plan,
        images: Mapping[Role, BuiltImage],
        inputs: Mapping[str, bytes],
    ) -> None:
        record = Record(
            number=number,
            made=datetime.now(UTC).replace(microsecond=0),
            imagebuilder=__version__,
            topology=self.topology_path.resolve(),
            inputs={name: hashlib.sha256(content).hexdigest() for name, content in sorted(inputs.items())},
            steps=steps_of(plan),
            trees={role: role_plan.tree.digest() for role, role_plan in plan.roles.items()},
            images=images,
        )
        files = {f"{INPUTS}/{name}": content for name, content in inputs.items()}
        files |= {f"{role}.tar": archive(role_plan.tree, epoch=0) for role, role_plan in plan.roles.items()}
        files[NPM_LOCK] = (NPM_PROJECT / NPM_LOCK).read_bytes()
        # The record last: whoever sees a generation's record finds the rest.
        files[RECORD] = record.model_dump_json(indent=2).encode() + b"\n"
        for name, content in files.items():
            _write(folder / PurePosixPath(name), content)


class _TakenError(Exception):
    """Another run has made the generation of that number."""


def every_topology(store: Store) -> Iterator[tuple[Generation, ...]]:
    """Yield the generations of each topology that the store knows, the oldest first: what must be kept."""
    root = store.root / "generations"
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if generations := tuple(generations_in(folder)):
            yield generations


def generations_in(folder: Path) -> Iterator[Generation]:
    """Yield the generations kept in *folder*, the oldest first."""
    for number in _numbers(folder):
        # One may be removed while we look.
        with contextlib.suppress(FileNotFoundError):
            yield read_generation(folder / str(number))


def damage(store: Store) -> Iterator[tuple[Path, str]]:
    """Yield the folder of each generation that is not as it was recorded, and a sentence that says what is wrong."""
    for folder in sorted((store.root / "generations").glob("*/*")):
        if folder.name.isdecimal():
            try:
                yield from ((folder, said) for said in read_generation(folder).damage())
            except FileNotFoundError:  # removed meanwhile
                continue
            except ImagebuilderError as error:
                yield folder, str(error)


def keep_provenance(store: Store, generation: Generation, envelope: Envelope) -> None:
    """Put *envelope* beside the record of *generation*, in place of another one if that is there."""
    with store.workspace() as workspace:
        write_whole(generation.provenance, envelope.to_json().encode() + b"\n", by=workspace / PROVENANCE)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _numbers(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def _told(numbers: list[int]) -> str:
    return f"there are {', '.join(map(str, numbers))}" if numbers else "there are none yet"


def _moved(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _TakenError from error
        raise
    return target
