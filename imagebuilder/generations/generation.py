"""One generation: a finished build in a folder of its own, with copies of what it was made from. Reads that folder."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from imagebuilder.errors import ImagebuilderError
from imagebuilder.plan import Plan
from imagebuilder.statements.intoto import Sha256
from imagebuilder.topology import Role
from imagebuilder.tree import Tree, from_archive

RECORD = "generation.json"
INPUTS = "inputs"
LOCK = "topology.lock"
NPM_LOCK = "package-lock.json"
PROVENANCE = "provenance.json"
SHIPMENTS = "shipments.jsonl"


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
        """Return *role*'s rendered tree; raise ImagebuilderError when it is not what was recorded."""
        content = self._read(f"{role}.tar")
        if hashlib.sha256(content).hexdigest() != self.record.trees.get(role):
            raise self._damaged(f"{role}.tar has changed")
        return from_archive(content)

    def input(self, name: str) -> bytes:
        """Return the copy of an operator's file; raise ImagebuilderError when it is not what was recorded."""
        content = self._read(f"{INPUTS}/{name}")
        if hashlib.sha256(content).hexdigest() != self.record.inputs.get(name):
            raise self._damaged(f"{INPUTS}/{name} has changed")
        return content

    def inputs(self) -> dict[str, bytes]:
        """Return the copies of all the operator's files by name."""
        return {name: self.input(name) for name in self.record.inputs}

    def damage(self) -> Iterator[str]:
        """Yield in a sentence each what is not as it was recorded."""
        reads: list[Callable[[], object]] = [partial(self.input, name) for name in self.record.inputs]
        reads += [partial(self.tree, role) for role in self.record.trees]
        for read in reads:
            try:
                read()
            except ImagebuilderError as error:
                yield str(error)

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


def read_generation(folder: Path) -> Generation:
    """Return the generation in *folder*; raise ImagebuilderError for a damaged record."""
    try:
        return Generation(folder, Record.model_validate_json((folder / RECORD).read_bytes()))
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise
        reason: Exception = error
    except ValidationError as error:
        reason = error
    raise ImagebuilderError(
        f"{folder / RECORD} is no record of a generation that this version can read",
        hint="remove that folder; its images stay in the store until: imagebuilder gc",
    ) from reason


def steps_of(plan: Plan) -> dict[str, str]:
    """Return the key of each step of *plan* by its name."""
    return {step.name: step.key for step in plan.steps}
