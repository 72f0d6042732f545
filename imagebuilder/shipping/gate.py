"""The gate before everything that ships: only what passed its test leaves. Keeps the record of what left for where."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from imagebuilder.build.image import Image, image_of
from imagebuilder.errors import ImagebuilderError
from imagebuilder.generations import Generation
from imagebuilder.gpt import HEAD_BYTES, spans
from imagebuilder.run import say
from imagebuilder.runs.attestation import attestation_for
from imagebuilder.store.folder import Store
from imagebuilder.store.hashing import sha256_of
from imagebuilder.topology import Role

SECRETS_LABEL = "secrets"


class GateError(ImagebuilderError):
    """An image must not leave."""


@dataclass(frozen=True)
class Cleared:
    """An image that may leave, and why."""

    generation: Generation
    image: Image
    tested: bool
    """False: nobody has seen it pass, and the operator wants it all the same."""


@dataclass(frozen=True)
class Shipment:
    """One image that left."""

    role: Role
    where: str
    """The disk or host, for people."""
    when: datetime
    """UTC."""
    sha256: str
    """Of the image without secrets."""
    tested: bool


def clear(store: Store, generation: Generation, role: Role, *, untested: bool = False) -> Cleared:
    """Return the image of *role* in *generation* once it is proven to be what was tested; raise GateError otherwise.

    With *untested* the test may be missing, loudly; the bytes must be those that were built in any case.
    """
    image = intact(store, generation, role)
    if has_passed(store, generation):
        return Cleared(generation, image, tested=True)
    said = f"generation {generation.number} has not passed its test"
    if not untested:
        raise GateError(said, hint=f"imagebuilder test --generation {generation.number}, or ship it --untested")
    say(f"warning: {said}, and ships untested as you asked: nobody has seen this {role} deliver mail")
    return Cleared(generation, image, tested=False)


def has_passed(store: Store, generation: Generation) -> bool:
    """Say whether there is an attestation that exactly these images passed; raise ImagebuilderError for a false one.

    When the operator trusts certain keys only, one of them must have signed it.
    """
    return attestation_for(store, generation.digests) is not None


def record(cleared: Cleared, where: str) -> Shipment:
    """Note down that *cleared* went to *where*, in a line of its generation's shipments, and return it."""
    now = datetime.now(UTC).replace(microsecond=0)
    shipment = Shipment(cleared.image.role, where, now, cleared.image.sha256, cleared.tested)
    line = json.dumps(asdict(shipment), default=lambda value: value.isoformat()) + "\n"
    try:
        # One write to a file opened for appending: two shipments at once give two lines.
        descriptor = os.open(cleared.generation.shipments, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        path = cleared.generation.shipments
        raise ImagebuilderError(f"shipped, but not noted in {path}: {str(error.strerror).lower()}") from None
    return shipment


def intact(store: Store, generation: Generation, role: Role) -> Image:
    """Return the image of *role*, its bytes being those that were built."""
    built = generation.record.images[role]
    if not built.path.parent.exists():
        image_of(store, generation.record.steps, role)  # put together again if it can be
    again = f"imagebuilder build --generation {generation.number}"
    try:
        found = sha256_of(built.path)
        with built.path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise GateError(f"the {role} of generation {generation.number} is no longer in the store", hint=again) from None
    except OSError as error:
        raise GateError(f"{built.path} can't be read: {str(error.strerror).lower()}") from None
    if found != built.sha256:
        raise GateError(
            f"the {role} of generation {generation.number} has changed since it was built: its SHA-256 is "
            f"{found[:16]}…, not {built.sha256[:16]}…",
            hint=f"rm -r {built.path.parent}, then {again}",
        )
    secrets = next(span for span in spans(head) if span.label == SECRETS_LABEL)
    return Image(role, built.path, built.sha256, built.size_bytes, built.root_hash, secrets.offset, secrets.length)


def tools_tree(store: Store, generation: Generation) -> Path:
    """Return the toolchain that *generation* was built with."""
    key = generation.record.steps["tools"]
    path = store.root / "outputs" / f"{key}-tools"
    if not path.is_dir():
        again = f"imagebuilder build --generation {generation.number}"
        raise ImagebuilderError(f"the tools of generation {generation.number} are no longer in the store", hint=again)
    return path
