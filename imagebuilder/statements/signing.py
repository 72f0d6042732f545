"""Signed statements: DSSE envelopes with Ed25519 signatures by OpenSSH keys. Reads key files.

The format is DSSE 1.0, https://github.com/secure-systems-lab/dsse, envelope.md and protocol.md.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic_core import PydanticCustomError

from imagebuilder.errors import ExitStatus, ImagebuilderError

SIGNING_KEY_VARIABLE = "IMAGEBUILDER_SIGNING_KEY"
TRUSTED_KEYS_VARIABLE = "IMAGEBUILDER_TRUSTED_KEYS"
MAX_KEY_FILE_BYTES = 2**20
KEY_HINT = "make one with: ssh-keygen -t ed25519 -N '' -f signing-key"


class KeyFileError(ImagebuilderError):
    """A file that the operator named has no key that can be used."""

    status = ExitStatus.WRONG_INPUT


class UntrustedError(ImagebuilderError):
    """No trusted key has signed what was read."""


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with."""

    key: Ed25519PublicKey
    comment: str = ""

    @property
    def id(self) -> str:
        """Its fingerprint, as `ssh-keygen -l` prints it."""
        blob = base64.b64decode(self.key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
        return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


@dataclass(frozen=True, repr=False)
class SigningKey:
    """A key that signs."""

    key: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """What its signatures are checked with."""
        return PublicKey(self.key.public_key())


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        # DSSE envelope.md: readers take the standard alphabet and the URL-safe one.
        return base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PydanticCustomError("base64", "is no base64") from error


Base64 = Annotated[bytes, BeforeValidator(_decoded), PlainSerializer(lambda value: base64.b64encode(value).decode())]


class Signature(BaseModel):
    """One signature of an envelope."""

    model_config = ConfigDict(frozen=True)

    keyid: str = ""
    """A hint only: every trusted key is tried."""
    sig: Base64


class Envelope(BaseModel):
    """Something said, and who has signed it: possibly nobody. Unknown keys are passed over (DSSE envelope.md)."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    payload_type: str = Field(alias="payloadType")
    payload: Base64
    signatures: tuple[Signature, ...] = ()

    @property
    def signed(self) -> bytes:
        """What signatures are made of: type and payload with their lengths (DSSE protocol.md, PAE)."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)

    def to_json(self) -> str:
        """Return the envelope as JSON, one line."""
        return self.model_dump_json(by_alias=True)

    @staticmethod
    def from_json(text: str | bytes, *, source: str = "the envelope") -> "Envelope":
        """Return the envelope that *text* is; raise ImagebuilderError naming *source* when it is none."""
        try:
            return Envelope.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ImagebuilderError(
                f"{source} is no signed statement (DSSE): {place + ': ' if place else ''}{first['msg'].lower()}"
            ) from error


def sign(payload_type: str, payload: bytes, key: SigningKey | None) -> Envelope:
    """Return *payload* in an envelope signed by *key*, or by nobody without one."""
    envelope = Envelope(payload_type=payload_type, payload=payload)
    if key is None:
        return envelope
    signature = Signature(keyid=key.public.id, sig=key.key.sign(envelope.signed))
    return envelope.model_copy(update={"signatures": (signature,)})


def verify(envelope: Envelope, keys: Iterable[PublicKey]) -> bytes:
    """Return the payload of *envelope* if one of *keys* signed it; raise UntrustedError otherwise."""
    trusted = tuple(keys)
    if any(_made_by(key, signature, envelope) for key in trusted for signature in envelope.signatures):
        return envelope.payload
    if not envelope.signatures:
        raise UntrustedError("nobody has signed this", hint=f"sign by naming a key: {SIGNING_KEY_VARIABLE}=FILE")
    if claimed := sorted({key.id for key in trusted} & {signature.keyid for signature in envelope.signatures}):
        raise UntrustedError(
            f"this has changed since {', '.join(claimed)} signed it, or another key has signed it in that name",
            hint="get it again from where it comes from",
        )
    said = ", ".join(signature.keyid or "a key without a name" for signature in envelope.signatures)
    known = ", ".join(key.id for key in trusted) or "none"
    raise UntrustedError(
        f"no trusted key has signed this: it is said to be signed by {said}, trusted are {known}",
        hint=f"add the signer's public key to the file that {TRUSTED_KEYS_VARIABLE} names, if you trust it",
    )


def _made_by(key: PublicKey, signature: Signature, envelope: Envelope) -> bool:
    try:
        key.key.verify(signature.sig, envelope.signed)
    except InvalidSignature:
        return False
    return True


def read_signing_key(path: Path) -> SigningKey:
    """Return the private key in the OpenSSH file *path*; raise KeyFileError when it can't be used."""
    content = _read(path)
    try:
        key = load_ssh_private_key(content, password=None)
    except TypeError as error:
        raise KeyFileError(
            f"{path} is protected by a passphrase, which a build can't ask for",
            hint="sign with a key without one, kept where only the builder reads it",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no private OpenSSH key", hint=KEY_HINT) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key", hint=KEY_HINT)
    return SigningKey(key)


def read_public_keys(source: Path | str) -> tuple[PublicKey, ...]:
    """Return the keys in *source*, a file or the text of one: lines as in an OpenSSH .pub file, ``#`` comments.

    Raise KeyFileError naming every line that is none.
    """
    text = source if isinstance(source, str) else _read(source).decode(errors="replace")
    name = "the text" if isinstance(source, str) else str(source)
    keys, wrong = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (key := _public_key(line)) is None:
            wrong.append(str(number))
        else:
            keys.append(key)
    if wrong:
        raise KeyFileError(f"{name} has no public Ed25519 key in line {', '.join(wrong)}", hint=KEY_HINT)
    if not keys:
        raise KeyFileError(f"{name} has no public key", hint=KEY_HINT)
    return tuple(keys)


def _public_key(line: str) -> PublicKey | None:
    words = line.split(maxsplit=2)
    try:
        key = load_ssh_public_key(" ".join(words[:2]).encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, Ed25519PublicKey):
        return None
    return PublicKey(key, words[2].strip() if len(words) > 2 else "")


def configured_signing_key(named: Path | None = None) -> SigningKey | None:
    """Return the key in the file *named*, or in that which the environment names, or none."""
    path = named or _named_by(SIGNING_KEY_VARIABLE)
    return read_signing_key(path) if path else None


def configured_trusted_keys(named: Path | None = None) -> tuple[PublicKey, ...]:
    """Return the keys in the file *named*, or in that which the environment names, or none."""
    path = named or _named_by(TRUSTED_KEYS_VARIABLE)
    return read_public_keys(path) if path else ()


def _named_by(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(f"the key file {path} can't be read: {str(error.strerror).lower()}") from error
