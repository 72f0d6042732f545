"""Starts a topology: writes a commented one, and beside it the keys that it needs and hasn't got."""

import fcntl
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import tomli_w

from imagebuilder.errors import ImagebuilderError, WrongInputError
from imagebuilder.run import say
from imagebuilder.secrets.age import IDENTITY_HINT, ClosedError, opened, own_identities, recipient, sealed, usable
from imagebuilder.secrets.keys import Secrets, completed, public_keys
from imagebuilder.secrets.vault import Vault, read_vault, resealed, write_private, write_vault
from imagebuilder.topology import Topology
from imagebuilder.topology.load import load_topology, read_toml
from imagebuilder.topology.public import PublicKeys

PUBLIC_MODE = 0o644
TEMPLATE = "template.toml"
PUBLIC_HEADER = """\
# Public keys, made by `imagebuilder init` from the private ones. Building needs this file and no secret: keep it
# beside the topology, under version control too.

"""
PASSWORDS_HEADER = """\
# First passwords, made by `imagebuilder init`, one mailbox per line. Hand them out by a safe way, then delete this
# file: nothing reads it.
"""


def init(path: Path, *, recipients: Sequence[str] = (), plain: bool = False) -> tuple[Path, ...]:
    """Write a topology to *path* unless one is there, and the keys it lacks beside it; return what was written.

    Keys that are there stay as they are. The secrets are encrypted to *recipients*; without any to those of before,
    or at the first time to the administrator's SSH keys; with *plain*, or without a key to encrypt to, to nobody.
    Nothing is written when the topology or the secrets are wrong (WrongInputError, ImagebuilderError), but for the
    topology itself where none was.
    """
    wrote = (path,) if _write_template(path) else ()
    topology = load_topology(path)
    return wrote + changed(
        path, lambda secrets: secrets, recipients=wanted_recipients(path, topology, recipients, plain=plain)
    )


def changed(
    path: Path, change: Callable[[Secrets | None], Secrets | None], *, recipients: Sequence[str] | None = None
) -> tuple[Path, ...]:
    """Let *change* make other secrets of those beside the topology *path*, add what is missing, and write it all.

    *recipients* are who they are encrypted to from now on; None changes nothing in that. Return what was written.
    """
    topology, secrets_file = load_topology(path), path.with_suffix(".secrets.toml")
    wrote = []
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImagebuilderError(f"another init of {path} is running", hint="wait for it to end") from None
        existing = read_vault(secrets_file) if secrets_file.exists() else None
        whole, passwords = completed(change(existing.secrets if existing else None), topology)
        vault = existing or Vault(whole)
        if recipients is not None:
            vault = resealed(vault, recipients)
        if passwords and vault.recipients:
            whole = replace(whole, passwords={**whole.passwords, **passwords})
        elif passwords:
            # before the secrets: a crash in between leaves a password too many, never a hash that nobody can use
            wrote.append(_write_passwords(path, passwords))
        vault = replace(vault, secrets=whole)
        if vault != existing:
            write_vault(secrets_file, vault)
            wrote.append(secrets_file)
        if _write_public(path.with_suffix(".public.toml"), whole):
            wrote.append(path.with_suffix(".public.toml"))
    return tuple(wrote)


def wanted_recipients(
    path: Path, topology: Topology, recipients: Sequence[str], *, plain: bool
) -> tuple[str, ...] | None:
    """Return who the secrets are to be encrypted to; None when they stay as they are."""
    if not recipients and not plain and path.with_suffix(".secrets.toml").exists():
        return None
    wanted = () if plain else tuple(recipients) or usable(topology.admin.ssh_keys)
    if not wanted:
        if not plain:
            say("the secrets stand in plain text, mode 0600: there is no SSH key of the administrator to encrypt to")
        return ()
    canary = sealed("canary", [recipient(text) for text in wanted])
    try:
        opened(canary, own_identities())
    except ClosedError:
        raise ClosedError(
            f"none of your private keys would open secrets encrypted to {', '.join(wanted)}",
            hint=f"{IDENTITY_HINT}, add your own key by --recipient, or keep them in plain text by --plain",
        ) from None
    return wanted


def template() -> str:
    """Return the commented topology that a new site starts from."""
    return files("imagebuilder.topology").joinpath(TEMPLATE).read_text(encoding="utf-8")


def public_text(public: PublicKeys) -> str:
    """Return the text of the file of public keys. Pure."""
    return PUBLIC_HEADER + tomli_w.dumps(public.model_dump(mode="json"))


def passwords_text(passwords: Mapping[str, str]) -> str:
    """Return the text of the file of first passwords. Pure."""
    return PASSWORDS_HEADER + "".join(f"{address}\t{passwords[address]}\n" for address in sorted(passwords))


def _write_template(path: Path) -> bool:
    """Write the template to *path* unless something is there; return whether it was written."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    try:
        with file:
            file.write(template())
    except BaseException as error:
        path.unlink()  # half a topology would look like the operator's own
        if isinstance(error, OSError):
            raise _unwritable(path, error) from None
        raise
    return True


def _unwritable(path: Path, error: Exception) -> ImagebuilderError:
    """Return the exception for a *path* that the system refused to write."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ImagebuilderError(f"{path} can't be written: {said.lower()}")


def _write_passwords(topology: Path, passwords: Mapping[str, str]) -> Path:
    """Write *passwords* beside the *topology*, with those of other mailboxes that stand there still."""
    path = topology.with_suffix(".passwords.txt")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ImagebuilderError(f"{path} can't be read: {error}", hint=f"move {path} away") from None
    kept = dict(line.split("\t", 1) for line in lines if "\t" in line and not line.startswith("#"))
    write_private(path, passwords_text({**kept, **passwords}))
    return path


def _write_public(path: Path, whole: Secrets) -> bool:
    """Write the public keys of *whole* to *path* unless they stand there; return whether they were written."""
    text = public_text(public_keys(whole))
    try:
        if read_toml(path, hint="") == tomllib.loads(text):
            return False
    except WrongInputError:
        pass  # missing or damaged: it is made anew, as all of it follows from the secrets
    write_private(path, text, mode=PUBLIC_MODE)
    return True
