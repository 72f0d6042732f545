"""The file beside the topology that keeps its secrets, encrypted or plain. Owns that one file.

Encrypted, each value stands for itself under its name, so that changes of different values merge like any text, and a
value that stays the same keeps its bytes. Its name is encrypted with it: values can't be swapped unseen.
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from imagebuilder.errors import ImagebuilderError, Problem, WrongInputError
from imagebuilder.secrets.age import ClosedError, Identity, opened, own_identities, recipient, sealed
from imagebuilder.secrets.keys import Secrets
from imagebuilder.topology import Role
from imagebuilder.topology.load import parsed_toml, validated
from imagebuilder.topology.model import Model
from imagebuilder.topology.private import PrivateKeys
from imagebuilder.writing import write_whole

PRIVATE_MODE = 0o600
SEALED_MODE = 0o644
PLAIN_HEADER = """\
# Private keys and password hashes, made by `imagebuilder init`. Whoever has this file can read the mail in transit
# and send in your name: keep it out of version control, and keep a copy in a safe place. To encrypt it to your SSH or
# age key: imagebuilder secrets init --recipient KEY

"""
SEALED_HEADER = """\
# Private keys and password hashes, made by `imagebuilder init`, each encrypted by itself to the keys named here. The
# file may be kept under version control and merged. To look and to change: imagebuilder secrets --help

"""
DAMAGED_HINT = "restore it from your copy, or delete what is damaged and run imagebuilder init"


class Sealed(Model):
    """The form of the encrypted file."""

    recipients: tuple[str, ...]
    """Public SSH or age keys, one of whose other halves opens the values."""
    sealed: dict[str, str]
    """Name to value, each encrypted."""


@dataclass(frozen=True)
class Vault:
    """The content of the file."""

    secrets: Secrets
    recipients: tuple[str, ...] = ()
    """Public keys; none: the file is plain."""
    known: Mapping[str, tuple[str, str]] = field(repr=False, default_factory=dict)
    """Of each value as it was read from an encrypted file: plain and encrypted."""


Identities = Callable[[], Sequence[Identity]]
"""Gives private keys; only asked when something is encrypted."""


def read_secrets(path: Path, identities: Identities = own_identities) -> Secrets:
    """Return the secrets in the file at *path*; raise ImagebuilderError as `read_vault` does."""
    return read_vault(path, identities).secrets


def read_vault(path: Path, identities: Identities = own_identities) -> Vault:
    """Return what the file at *path* keeps.

    Raise ImagebuilderError when it is plain and others can read it, damaged, or closed to *identities*.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ImagebuilderError(f"{path} is no regular file")
            content = file.read()
    except FileNotFoundError:
        raise ImagebuilderError(f"there are no secrets at {path}", hint="imagebuilder init makes them") from None
    except OSError as error:
        raise ImagebuilderError(f"{path} can't be read: {str(error.strerror).lower()}") from None
    document = parsed_toml(path, content)
    if "sealed" in document or "recipients" in document:
        return _unsealed(path, document, identities)
    if stat.S_IMODE(mode) & ~PRIVATE_MODE:
        raise ImagebuilderError(
            f"{path} has mode {stat.S_IMODE(mode):04o}: others may have read the private keys in it",
            hint=f"chmod 600 {path}",
        )
    return Vault(from_document(path, document))


def write_secrets(path: Path, private: Secrets) -> None:
    """Write *private* to *path* in plain, mode 0600 from its first moment, in one step."""
    write_vault(path, Vault(private))


def write_vault(path: Path, vault: Vault) -> None:
    """Write *vault* to *path* in one step; what did not change since it was read keeps its encrypted bytes."""
    if not vault.recipients:
        write_private(path, PLAIN_HEADER + plain_text(vault.secrets))
        return
    keys = [recipient(text) for text in vault.recipients]
    values = {}
    for name, value in sorted(named(vault.secrets).items()):
        plain, encrypted = vault.known.get(name, (None, ""))
        values[name] = encrypted if plain == value else sealed(f"{name}\n{value}", keys)
    document = {"recipients": list(vault.recipients), "sealed": values}
    write_private(path, SEALED_HEADER + tomli_w.dumps(document, multiline_strings=True), mode=SEALED_MODE)


def resealed(vault: Vault, recipients: Sequence[str]) -> Vault:
    """Return *vault* for *recipients* alone, every value to be encrypted anew; without any it will be plain."""
    for text in recipients:
        recipient(text)
    if tuple(recipients) == vault.recipients:
        return vault
    return replace(vault, recipients=tuple(recipients), known={})


def plain_text(private: Secrets) -> str:
    """Return *private* as the text of a plain file. Pure."""
    return tomli_w.dumps(document_of(private), multiline_strings=True)


def document_of(private: Secrets) -> dict[str, Any]:
    """Return *private* in the form of PrivateKeys; tables that are empty and seldom used are left out. Pure."""
    dkim: dict[str, dict[str, str]] = {}
    for (domain, selector), key in sorted(private.dkim.items()):
        dkim.setdefault(domain, {})[selector] = key
    document: dict[str, Any] = {"tls": private.tls} if private.tls else {}  # a bare value stands above all tables
    document |= {
        "wireguard": {str(role): private.wireguard[role] for role in sorted(private.wireguard)},
        "ssh": {str(role): private.ssh[role] for role in sorted(private.ssh)},
        "dkim": dkim,
        "mailboxes": dict(sorted(private.mailboxes.items())),
    }
    seldom = {
        "tokens": dict(sorted(private.tokens.items())),
        "passwords": dict(sorted(private.passwords.items())),
    }
    return document | {name: table for name, table in seldom.items() if table}


def from_document(path: Path, document: Mapping[str, Any]) -> Secrets:
    """Return the secrets that *document*, from the file *path*, has; raise WrongInputError that shows none."""
    kept = validated(path, document, PrivateKeys, hint=DAMAGED_HINT, secret=True)
    return Secrets(
        wireguard={Role(role): key for role, key in kept.wireguard.items()},
        ssh={Role(role): key for role, key in kept.ssh.items()},
        dkim={(domain, selector): key for domain, keys in kept.dkim.items() for selector, key in keys.items()},
        mailboxes=kept.mailboxes,
        tls=kept.tls,
        tokens=kept.tokens,
        passwords=kept.passwords,
    )


def named(private: Secrets) -> dict[str, str]:
    """Return every value of *private* by its name: ``dkim/example.org/dkim``. Pure."""
    return {"/".join(place): value for place, value in _leaves(document_of(private))}


def unnamed(path: Path, values: Mapping[str, str]) -> Secrets:
    """Return the secrets that have *values* by name; raise WrongInputError, blaming *path*, for what is no name."""
    document: dict[str, Any] = {}
    wrong = []
    for name, value in values.items():
        table, _, rest = name.partition("/")
        # Mailboxes may have a slash in their names, domains have none.
        domain, _, selector = rest.partition("/") if table == "dkim" else ("", "", rest)
        if name == "tls":
            document[name] = value
            continue
        if not selector:
            wrong.append(Problem(name, "is no name of a secret"))
            continue
        entries = document.setdefault(table, {})
        (entries.setdefault(domain, {}) if domain else entries)[selector] = value
    if wrong:
        raise WrongInputError(str(path), tuple(wrong), hint="imagebuilder secrets list shows the names there are")
    return from_document(path, document)


def write_private(path: Path, text: str, *, mode: int = PRIVATE_MODE) -> None:
    """Write *text* to *path* with *mode*, never wider, whole or not at all."""
    try:
        write_whole(path, text.encode(), mode=mode)
    except OSError as error:
        raise ImagebuilderError(f"{path} can't be written: {str(error.strerror).lower()}") from None


def _unsealed(path: Path, document: Mapping[str, Any], identities: Identities) -> Vault:
    """Return the vault that the encrypted *document* is; every damaged value is reported at once."""
    form = validated(path, document, Sealed, hint=DAMAGED_HINT)
    keys, values, problems = identities(), dict[str, str](), list[Problem]()
    known: dict[str, tuple[str, str]] = {}
    for name, encrypted in form.sealed.items():
        try:
            label, _, value = opened(encrypted, keys).partition("\n")
        except ClosedError as error:
            if not values and len(problems) == len(form.sealed) - 1:
                hint = f"it is encrypted to: {', '.join(form.recipients)}; {error.hint}"
                raise ClosedError(f"none of your keys opens {path}", hint=hint) from None
            problems.append(Problem(f"sealed.'{name}'", str(error)))
            continue
        if label != name:
            problems.append(Problem(f"sealed.'{name}'", f"holds the value of {label!r}"))
        values[name] = value
        known[name] = (value, encrypted)
    if problems:
        raise WrongInputError(str(path), tuple(problems), hint=DAMAGED_HINT)
    return Vault(unnamed(path, values), form.recipients, known)


def _leaves(entries: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """Return every text in *entries* with the keys that lead to it."""
    found: list[tuple[tuple[str, ...], str]] = []
    for key, value in entries.items():
        if isinstance(value, Mapping):
            found += [((key, *place), text) for place, text in _leaves(value)]
        else:
            found.append(((key,), value))
    return found
