"""Encryption to the operator's SSH or age keys, in the format of age. Reads files of private keys; may ask for a
passphrase.

The format: https://age-encryption.org/v1; SSH keys stand in for age's own as its README describes.
"""

import getpass
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key

from imagebuilder.errors import ExitStatus, ImagebuilderError

IDENTITY_VARIABLE = "IMAGEBUILDER_IDENTITY"
IDENTITY_HINT = f"name the file of your private SSH or age key: {IDENTITY_VARIABLE}=FILE"
MAX_KEY_FILE_BYTES = 2**20
SSH_RECIPIENT = re.compile(r"(?:^|[ \t])(ssh-(?:ed25519|rsa) [A-Za-z0-9+/=]+)(?:[ \t]|$)")
"""The part of an authorized_keys line that counts; other kinds of SSH keys can sign but not decrypt."""

Recipient = pyrage.ssh.Recipient | pyrage.x25519.Recipient
Identity = pyrage.ssh.Identity | pyrage.x25519.Identity


class AgeKeyError(ImagebuilderError):
    """A key that the operator named can't be used."""

    status = ExitStatus.WRONG_INPUT


class ClosedError(ImagebuilderError):
    """None of the private keys at hand opens what was encrypted."""


def recipient(text: str) -> Recipient:
    """Return the public key in *text*, an SSH or age one; raise AgeKeyError when it can't be encrypted to."""
    try:
        if text.startswith("age1"):
            return pyrage.x25519.Recipient.from_str(text)
        if found := SSH_RECIPIENT.search(text):
            return pyrage.ssh.Recipient.from_str(found[1])
    except pyrage.RecipientError:
        pass
    hint = "one looks like 'ssh-ed25519 AAAA…' or 'age1…'"
    raise AgeKeyError(f"{text!r} is no key that can be encrypted to", hint=hint)


def usable(lines: Iterable[str]) -> tuple[str, ...]:
    """Return those of *lines* of an authorized_keys file that can be encrypted to, without what sshd adds. Pure."""
    return tuple(found[1] for line in lines if (found := SSH_RECIPIENT.search(line)) and "ssh-ed25519" in found[1])


def sealed(plain: str, recipients: Sequence[Recipient]) -> str:
    """Return *plain* encrypted to all *recipients*, as lines of text."""
    return pyrage.encrypt(plain.encode(), list(recipients), armored=True).decode()


def opened(text: str, identities: Sequence[Identity]) -> str:
    """Return what was sealed into *text*; raise ClosedError when none of *identities* fits, or it is damaged."""
    try:
        return pyrage.decrypt(text.encode(), list(identities)).decode()
    except pyrage.DecryptError as error:
        said = f"{str(error)[:1].lower()}{str(error)[1:]}"
        raise ClosedError(f"it can't be decrypted: {said}", hint=IDENTITY_HINT) from None


def own_identities() -> tuple[Identity, ...]:
    """Return the operator's private keys: those in the file that the environment names, or ~/.ssh/id_ed25519."""
    if named := os.environ.get(IDENTITY_VARIABLE):
        return read_identities(Path(named))
    usual = Path.home() / ".ssh/id_ed25519"
    if usual.exists():
        return read_identities(usual)
    raise AgeKeyError(f"there is no private key to open the secrets with: {usual} does not exist", hint=IDENTITY_HINT)


def read_identities(path: Path) -> tuple[Identity, ...]:
    """Return the private keys in the file *path*, of SSH or age; raise AgeKeyError when it has none."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise AgeKeyError(f"the key file {path} can't be read: {str(error.strerror).lower()}") from None
    try:
        if b"PRIVATE KEY-----" in content:
            return (_ssh_identity(path, content),)
        keys = [word for word in content.decode(errors="replace").split() if word.startswith("AGE-SECRET-KEY-")]
        if keys:
            return tuple(pyrage.x25519.Identity.from_str(key) for key in keys)
    except pyrage.IdentityError as error:
        raise AgeKeyError(f"{path} has no private key that can decrypt: {str(error).lower()}") from None
    raise AgeKeyError(f"{path} has no private key of SSH or age", hint=IDENTITY_HINT)


def _ssh_identity(path: Path, content: bytes) -> Identity:
    """Return the SSH key *content* of the file *path*, asking for its passphrase if it has one."""
    passphrase: bytes | None = None
    try:
        load_ssh_private_key(content, None)
    except TypeError:
        passphrase = _asked(path)
    except (ValueError, UnsupportedAlgorithm):
        pass  # what is wrong with it is said below
    if passphrase is not None:
        try:
            key = load_ssh_private_key(content, passphrase)
        except ValueError:
            raise AgeKeyError(f"that is not the passphrase of {path}") from None
        content = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return pyrage.ssh.Identity.from_buffer(content)


def _asked(path: Path) -> bytes:
    """Return the passphrase of *path*, typed by the operator."""
    if not sys.stdin.isatty():
        raise AgeKeyError(
            f"{path} is protected by a passphrase, and nobody is there to type it",
            hint=f"run this at a terminal, or {IDENTITY_HINT}",
        )
    return getpass.getpass(f"passphrase of {path}: ", sys.stderr).encode()
