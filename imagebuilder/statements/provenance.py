"""How images were made, from what and by whom: SLSA provenance v1, https://slsa.dev/spec/v1.0/provenance. Pure."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from packageurl import PackageURL
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagebuilder import __version__
from imagebuilder.errors import ImagebuilderError
from imagebuilder.plan import Plan
from imagebuilder.statements.intoto import PAYLOAD_TYPE, Sha256, Statement, subject
from imagebuilder.statements.signing import Envelope, PublicKey, UntrustedError, verify
from imagebuilder.topology import Role

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:imagebuilder:build:1"
"""Says what the parameters mean: the operator's files by name, and the key of each step by name."""
BUILDER = "urn:imagebuilder"


class Loose(BaseModel):
    """A table in which others may write more than we read."""

    model_config = ConfigDict(frozen=True)


class ExternalParameters(Loose):
    """What the operator decides."""

    files: Mapping[str, Sha256]
    """The topology and what stands beside it, by name."""


class InternalParameters(Loose):
    """What follows from it."""

    epoch: int
    """Date of everything in the images, in Unix seconds."""
    seed: str
    steps: Mapping[str, str]
    """Name of each step to the key of its derivation."""


class BuildDefinition(Loose):
    """What was to be done."""

    build_type: Literal["urn:imagebuilder:build:1"] = Field(alias="buildType")
    external: ExternalParameters = Field(alias="externalParameters")
    internal: InternalParameters = Field(alias="internalParameters")


class Builder(Loose):
    """Who did it."""

    id: str
    version: Mapping[str, str] = {}


class RunDetails(Loose):
    """How it was done this time."""

    builder: Builder


class Predicate(Loose):
    """What we read of a provenance."""

    build_definition: BuildDefinition = Field(alias="buildDefinition")
    run_details: RunDetails = Field(alias="runDetails")


@dataclass(frozen=True)
class Claim:
    """What somebody says of images: that just these come from just that."""

    images: Mapping[Role, str]
    """SHA-256 of each."""
    files: Mapping[str, str]
    """SHA-256 of the operator's files, by name."""
    steps: Mapping[str, str]
    """Key of each step, by name."""
    version: str
    """Of the imagebuilder that made them."""
    signed: bool
    """Whether a key that we trust says so."""

    def obstacles(self, plan: Plan, inputs: Mapping[str, bytes]) -> tuple[str, ...]:
        """Return why *plan*, made from *inputs*, is not the build that is claimed; nothing when it is."""
        ours = {name: hashlib.sha256(content).hexdigest() for name, content in inputs.items()}
        files = [
            f"{name} is {'missing' if name not in ours else 'another one' if name in self.files else 'not part of it'}"
            for name in sorted(ours.keys() | self.files.keys())
            if ours.get(name) != self.files.get(name)
        ]
        steps = {step.name: step.key for step in plan.steps}
        other = [name for name in sorted(steps.keys() | self.steps.keys()) if steps.get(name) != self.steps.get(name)]
        if files or not other:
            return tuple(files)
        return (f"this imagebuilder ({__version__}, not that {self.version}) makes {', '.join(other)} in another way",)

    def refuted(self, digests: Mapping[Role, str]) -> tuple[str, ...]:
        """Return which of the images that were built, *digests*, are not those that are claimed."""
        return tuple(
            f"{role} came out as {sha256}, claimed is {self.images.get(role, 'nothing')}"
            for role, sha256 in digests.items()
            if self.images.get(role) != sha256
        )


def provenance(plan: Plan, inputs: Mapping[str, bytes], images: Mapping[Role, str], npm_lock: str) -> Statement:
    """Return how *images*, SHA-256 by role, were made; the same build says the same, whenever and wherever it is made.

    *inputs* are the operator's files by name, *npm_lock* is the text of npm's package-lock.json.
    """
    return Statement(
        subject=tuple(subject(str(role), sha256) for role, sha256 in images.items()),
        predicate_type=PREDICATE_TYPE,
        predicate={
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "files": {name: hashlib.sha256(content).hexdigest() for name, content in inputs.items()}
                },
                "internalParameters": {
                    "epoch": plan.lock.epoch,
                    "seed": str(plan.lock.seed),
                    "steps": {step.name: step.key for step in plan.steps},
                },
                "resolvedDependencies": [*_debian(plan), *_npm(npm_lock)],
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {"imagebuilder": __version__}}},
        },
    )


def _debian(plan: Plan) -> Iterator[dict[str, object]]:
    for package in plan.lock.packages:
        url = PackageURL("deb", "debian", package.name, package.version, {"arch": package.architecture})
        yield {"uri": str(url), "digest": {"sha256": package.sha256}}


def _npm(lock: str) -> Iterator[dict[str, object]]:
    for path, said in json.loads(lock)["packages"].items():
        algorithm, _, encoded = str(said.get("integrity", "")).partition("-")
        if path and encoded:
            scope, _, name = path.rpartition("node_modules/")[2].rpartition("/")
            digest = {algorithm: base64.b64decode(encoded).hex()}
            yield {"uri": str(PackageURL("npm", scope or None, name, said["version"])), "digest": digest}


def read_claim(content: bytes, keys: Iterable[PublicKey], *, source: str) -> Claim:
    """Return what the envelope *content* claims; raise ImagebuilderError naming *source* when that can't be believed.

    With *keys* one of them must have signed it; without, a signature is neither asked for nor looked at.
    """
    envelope, trusted = Envelope.from_json(content, source=source), tuple(keys)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ImagebuilderError(f"{source} holds {envelope.payload_type!r}, not a statement ({PAYLOAD_TYPE})")
    try:
        payload = verify(envelope, trusted) if trusted else envelope.payload
    except UntrustedError as error:
        raise UntrustedError(f"{source}: {error}", hint=error.hint) from error
    statement = Statement.from_bytes(payload, source=source)
    if statement.predicate_type != PREDICATE_TYPE:
        raise ImagebuilderError(f"{source} says {statement.predicate_type!r}, not how something was built")
    return _claim(statement, signed=bool(trusted), source=source)


def _claim(statement: Statement, *, signed: bool, source: str) -> Claim:
    try:
        said = Predicate.model_validate(statement.predicate)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ImagebuilderError(f"{source} is no provenance of images: {place}: {first['msg'].lower()}") from error
    return Claim(
        images={Role(name): sha256 for name, sha256 in statement.digests().items() if name in set(Role)},
        files=said.build_definition.external.files,
        steps=said.build_definition.internal.steps,
        version=said.run_details.builder.version.get("imagebuilder", "?"),
        signed=signed,
    )
