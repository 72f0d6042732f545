"""Generations: every finished build of a topology, with copies of what it was made from. Owns STORE/generations."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from imagebuilder import __version__
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.plan import NPM_PROJECT, Plan
from imagebuilder.statements.intoto import Sha256
from imagebuilder.statements.signing import Envelope
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role
from imagebuilder.tree import Tree, archive, from_archive

RECORD = "generation.json"
INPUTS = "inputs"
LOCK = "topology.lock"
NPM_LOCK = "package-lock.json"
PROVENANCE = "provenance.json"
SHIPMENTS = "shipments.jsonl"


class NoSuchGenerationError(ImagebuilderError):
    """A generation was named that does not exist."""

    status = ExitStatus.WRONG_INPUT


class BuiltImage(BaseModel):
    """An image as it was built."""

    model_config = ConfigDict(frozen=True)

    path: Path
    sha256: Sha256
    size_bytes: int
    root_hash: str
    """dm-verity's, hexadecimal."""
    command_line: str
    """What its kernel is started with."""


class Record(BaseModel):
    """What a generation's file says."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    """Of this format."""
    number: int
    made: datetime
    """UTC."""
    imagebuilder: str
    """Version that built it."""
    topology: Path
    """Where the operator's file was."""
    inputs: Mapping[str, Sha256]
    """File name among the copies to digest: topology.toml, topology.public.toml, topology.lock, and what they name."""
    steps: Mapping[str, str]
    """Name of each step to its derivation's key."""
    trees: Mapping[Role, Sha256]
    """Digest of each role's rendered tree."""
    images: Mapping[Role, BuiltImage]


@dataclass(frozen=True)
class Generation:
    """One build, in its own folder."""

    folder: Path
    record: Record

    @property
    def number(self) -> int:
        """Counted from 1 per topology."""
        return self.record.number

    @property
    def topology(self) -> Path:
        """The copy of the topology; the public file and the lock stand beside it."""
        return self.folder / INPUTS / "topology.toml"

    @property
    def provenance(self) -> Path:
        """The envelope that says how the images were made."""
        return self.folder / PROVENANCE

    @property
    def shipments(self) -> Path:
        """Where the images went, a JSON object per line; missing when nowhere."""
        return self.folder / SHIPMENTS

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the store's outputs that this generation consists of."""
        return tuple(f"{key}-{name}" for name, key in self.record.steps.items())

    @property
    def digests(self) -> dict[Role, str]:
        """SHA-256 of each image."""
        return {role: image.sha256 for role, image in self.record.images.items()}

    def tree(self, role: Role) -> Tree:
        """Return *role*'s rendered tree."""
        return from_archive(self._read(f"{role}.tar"))

    def input(self, name: str) -> bytes:
        """Return the copy of an operator's file; raise ImagebuilderError when it is not what was recorded."""
        content = self._read(f"{INPUTS}/{name}")
        if hashlib.sha256(content).hexdigest() != self.record.inputs.get(name):
            raise self._damaged(f"{INPUTS}/{name} has changed")
        return content

    def inputs(self) -> dict[str, bytes]:
        """Return the copies of all the operator's files by name."""
        return {name: self.input(name) for name in self.record.inputs}

    def npm_lock(self) -> str:
        """Return the copy of npm's lock, package-lock.json, which is imagebuilder's own input."""
        return self._read(NPM_LOCK).decode()

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise self._damaged(f"{name} is missing") from error

    def _damaged(self, what: str) -> ImagebuilderError:
        return ImagebuilderError(
            f"generation {self.number} is damaged: {what}",
            hint=f"remove {self.folder} and build again to have it recorded",
        )

    def shipped(self) -> tuple[dict[str, Any], ...]:
        """Return where the images went, the first first; a line cut short by a crash is passed over."""
        try:
            written = self.shipments.read_text().splitlines()
        except FileNotFoundError:
            return ()
        found = []
        for line in written:
            with contextlib.suppress(ValueError):
                if isinstance(entry := json.loads(line), dict):
                    found.append(entry)
        return tuple(found)

    def same_as(self, plan: Plan, images: Mapping[Role, BuiltImage], inputs: Mapping[str, bytes]) -> bool:
        """Say whether building *plan* gave what this generation is, from the same lock.

        Another topology that means the same, as with another comment, makes no difference.
        """
        if hashlib.sha256(inputs.get(LOCK, b"")).hexdigest() != self.record.inputs.get(LOCK):
            return False
        digests = {role: image.sha256 for role, image in images.items()}
        return self.record.steps == steps_of(plan) and self.digests == digests


@dataclass(frozen=True)
class Generations:
    """All generations of one topology."""

    store: Store
    topology_path: Path
    """The operator's file; generations belong to its place, not to its content."""

    @property
    def folder(self) -> Path:
        """Where they are kept."""
        place = hashlib.sha256(os.fsencode(self.topology_path.resolve())).hexdigest()[:32]
        return self.store.root / "generations" / place

    def all(self) -> tuple[Generation, ...]:
        """Return every generation, the oldest first."""
        return tuple(generations_in(self.folder))

    def latest(self) -> Generation | None:
        """Return the newest generation, or None before the first build."""
        numbers = _numbers(self.folder)
        return _read(self.folder / str(numbers[-1])) if numbers else None

    def find(self, number: int) -> Generation:
        """Return generation *number*; raise NoSuchGenerationError that names those there are."""
        numbers = _numbers(self.folder)
        if number not in numbers:
            raise NoSuchGenerationError(
                f"there is no generation {number} of {self.topology_path}: {_told(numbers)}",
                hint="imagebuilder generations" if numbers else "imagebuilder build makes the first",
            )
        return _read(self.folder / str(number))

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
                return _read(_moved(workspace / "generation", self.folder / str(number)))
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


def steps_of(plan: Plan) -> dict[str, str]:
    """Return the key of each step of *plan* by its name."""
    return {step.name: step.key for step in plan.steps}


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
            yield _read(folder / str(number))


def keep_provenance(store: Store, generation: Generation, envelope: Envelope) -> None:
    """Put *envelope* beside the record of *generation*, in place of another one if that is there."""
    content = envelope.to_json().encode() + b"\n"
    with store.workspace() as workspace:
        _write(workspace / PROVENANCE, content)
        (workspace / PROVENANCE).replace(generation.provenance)


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


def _read(folder: Path) -> Generation:
    try:
        return Generation(folder, Record.model_validate_json((folder / RECORD).read_bytes()))
    except ValidationError as error:
        raise ImagebuilderError(
            f"{folder / RECORD} is no record of a generation that this version can read",
            hint="remove that folder; its images stay in the store until: imagebuilder gc",
        ) from error


def _moved(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _TakenError from error
        raise
    return target
