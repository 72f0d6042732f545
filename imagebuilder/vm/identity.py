"""Who the bed is: what stays the same from run to run, as saved machines remember it. Owns one private folder.

Saved machines trust the key of the world's root zone, hold password hashes and keys, and would not get along with a
world that has others. All of it is made for tests alone, but for the keys of the tunnel: their public halves are in
the images.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from argon2 import PasswordHasher

from imagebuilder.errors import ImagebuilderError
from imagebuilder.secrets.keys import (
    NOTHING,
    Secrets,
    completed,
    credentials,
    hashed,
    new_password,
    passwd_line,
    public_keys,
    with_passwords,
)
from imagebuilder.secrets.vault import read_secrets, write_private, write_secrets
from imagebuilder.topology import PublicKeys, Role, Topology
from imagebuilder.vm.waiting import hold_alone

IDENTITIES_MOST = 16
"""Older ones are removed; one takes some 200 kB."""
MADE_S = 300.0
"""Seconds to wait for another run that makes the same thing."""
MADE_OF = 4
"""Raised when what an identity consists of changes."""
QUICK = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
"""What is dear on purpose would take an emulated processor seconds at each login."""
GUEST_QUOTAS_MIB = (1024, 4)
"""One for another person to have, and one to fill."""


@dataclass(frozen=True)
class Identity:
    """A folder, for its owner's eyes alone, of what is made once."""

    folder: Path

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the folder *name*, filled by *make* unless it was before; runs at the same time fill it once."""
        target = self.folder / name
        if not target.is_dir():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as lock:
                hold_alone(lock, f"what another run makes of {name}", within_s=MADE_S)
                for left in self.folder.glob(f".{name}.*"):
                    shutil.rmtree(left)
                if not target.is_dir():
                    made = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=self.folder))
                    make(made)
                    made.rename(target)
        return target

    @property
    def digest(self) -> str:
        """What tells it from another of the same topology, made before or after it."""

        def make(folder: Path) -> None:
            write_private(folder / "id", os.urandom(16).hex())

        return (self.once("name", make) / "id").read_text()


@dataclass(frozen=True)
class Guest:
    """A throw-away mailbox in the principal domain: in no image, named by the secrets partition alone."""

    address: str
    quota_mib: int
    hashed_password: str = field(repr=False)

    @property
    def line(self) -> str:
        """How the mail store is told of it."""
        return passwd_line(self.address, self.hashed_password, f"userdb_quota_storage_size={self.quota_mib}M")


@dataclass(frozen=True)
class Credentials:
    """What the machines of the bed are given, and their owners' side of it."""

    secrets: Secrets
    public: PublicKeys
    guests: tuple[Guest, ...]
    passwords: Mapping[str, str] = field(repr=False)
    """Of each mailbox, in plain."""

    def files(self, topology: Topology, role: Role) -> dict[str, bytes]:
        """Return what the image of *role* finds in /run/credstore: content by file name. Pure."""
        files = credentials(self.secrets, topology, role)
        if role is Role.CLIENT:
            files["mailboxes.guests"] = "".join(guest.line for guest in self.guests).encode()
        return files


def identity_of(root: Path, topology: Topology, secrets: Secrets) -> Identity:
    """Return the identity that is kept below *root* for *topology* and the tunnel's keys in *secrets*."""
    tunnel = "".join(secrets.wireguard[role] for role in sorted(secrets.wireguard))
    text = f"{MADE_OF} {topology.model_dump_json()} {tunnel}"
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.utime(folder)
    everybody = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in everybody[IDENTITIES_MOST:]:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(old)
    return Identity(folder)


def bed_credentials(identity: Identity, topology: Topology, secrets: Secrets, public: PublicKeys) -> Credentials:
    """Return keys and passwords for tests: fresh ones at first, later the same, and the tunnel's own from *secrets*.

    Raises ImagebuilderError when *secrets* and *public* don't belong together, which the tests then can't notice.
    """
    _require_pairs(topology, secrets, public)

    def make(folder: Path) -> None:
        fresh, passwords = completed(replace(NOTHING, wireguard=secrets.wireguard), topology)
        write_secrets(folder / "secrets.toml", with_passwords(fresh, passwords, QUICK))
        domain, token = topology.mail.domains[0].name, os.urandom(4).hex()
        guests = []
        for number, quota_mib in enumerate(GUEST_QUOTAS_MIB):
            address = f"guest-{token}-{number}@{domain}"
            passwords[address] = new_password()
            guests.append(asdict(Guest(address, quota_mib, hashed(passwords[address], QUICK))))
        write_private(folder / "guests.json", json.dumps(guests))
        write_private(folder / "passwords.json", json.dumps(passwords))

    folder = identity.once("credentials", make)
    private = replace(read_secrets(folder / "secrets.toml"), wireguard=secrets.wireguard)
    guests = tuple(Guest(**guest) for guest in json.loads((folder / "guests.json").read_text()))
    return Credentials(private, public_keys(private), guests, json.loads((folder / "passwords.json").read_text()))


def _require_pairs(topology: Topology, secrets: Secrets, public: PublicKeys) -> None:
    own = public_keys(secrets)
    for domain in topology.mail.domains:
        name, selector = domain.name, domain.dkim_selector
        published = public.dkim.get(name, {}).get(selector)
        if published != own.dkim.get(name, {}).get(selector):
            raise ImagebuilderError(
                f"the two halves of the DKIM key {selector!r} of {name} don't belong together",
                hint="imagebuilder init completes and corrects the public file",
            )
    if (own.ssh, own.wireguard, own.tls) != (public.ssh, public.wireguard, public.tls):
        raise ImagebuilderError(
            "the public file does not belong to the secrets: their keys of tunnel, hosts or certificate differ",
            hint="imagebuilder init completes and corrects the public file",
        )
