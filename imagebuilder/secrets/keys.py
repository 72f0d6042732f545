"""The private keys of a topology: makes them, and says which host gets which. Touches chance alone."""

import base64
import hashlib
import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from argon2 import PasswordHasher
from argon2.low_level import Type
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from imagebuilder.errors import ImagebuilderError
from imagebuilder.topology.model import Role, Topology
from imagebuilder.topology.public import PublicKeys, RoleKeys

INIT_HINT = "imagebuilder init adds missing keys"
# RFC 9106 section 4, the second recommendation, with one lane as Dovecot's own hashes have it (libsodium)
HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1, hash_len=32, salt_len=16, type=Type.ID)
DKIM_BITS = 2048
"""4096 makes a record that some providers' forms refuse, and receivers needn't check longer ones (RFC 8301)."""
PASSWORD_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without the letters and digits that are read as another; 5 bits each."""
PASSWORD_GROUPS = (5, 5, 5, 5)

ACME_TOKEN = "acme."
"""Begins the names of the tokens that lego gets as its variables."""
RELAY_TOKEN = "relay."
"""Begins the names of the tokens that are passwords of relays."""
DkimName = tuple[str, str]
"""Mail domain and selector."""


@dataclass(frozen=True)
class Secrets:
    """What only the two hosts may know; its repr shows none of it."""

    wireguard: Mapping[Role, str] = field(repr=False)
    """X25519 private keys, base64 as `wg genkey` prints them."""
    ssh: Mapping[Role, str] = field(repr=False)
    """Ed25519 host keys in OpenSSH's PEM form."""
    dkim: Mapping[DkimName, str] = field(repr=False)
    """RSA keys, PKCS#8 in PEM."""
    mailboxes: Mapping[str, str] = field(repr=False)
    """Password hash of each mailbox, with its scheme in front as Dovecot has it: ``{ARGON2ID}$argon2id$…``."""
    tls: str | None = field(default=None, repr=False)
    """Key of the proxy's certificate, P-256, PKCS#8 in PEM."""
    tokens: Mapping[str, str] = field(repr=False, default_factory=dict)
    """Tokens for the interfaces of providers, by a name of the operator's."""
    passwords: Mapping[str, str] = field(repr=False, default_factory=dict)
    """First passwords by mailbox, until they have been handed over; only kept where they are encrypted."""


NOTHING = Secrets(MappingProxyType({}), MappingProxyType({}), MappingProxyType({}), MappingProxyType({}))


def new_secrets(topology: Topology) -> Secrets:
    """Return fresh keys for *topology*, and hashes of passwords that nobody knows."""
    return completed(None, topology)[0]


def completed(existing: Secrets | None, topology: Topology) -> tuple[Secrets, dict[str, str]]:
    """Return *existing* with whatever *topology* needs and it lacks, and the new mailboxes' passwords in plain."""
    old = existing or NOTHING
    passwords = {
        mailbox.address: new_password()
        for mailbox in topology.mail.mailboxes
        if mailbox.address not in old.mailboxes
    }  # fmt: skip
    wanted = [(domain.name, selector) for domain in topology.mail.domains for selector in domain.selectors]
    whole = replace(
        old,
        wireguard={role: old.wireguard.get(role) or wireguard_key() for role in Role},
        ssh={role: old.ssh.get(role) or ssh_key() for role in Role},
        dkim={**old.dkim, **{name: dkim_key() for name in wanted if name not in old.dkim}},
        tls=old.tls or tls_key(),
    )
    return with_passwords(whole, passwords), passwords


def with_passwords(existing: Secrets, passwords: Mapping[str, str], hasher: PasswordHasher = HASHER) -> Secrets:
    """Return *existing* with the hashes of *passwords*, by address, instead of those it had."""
    fresh = {address: hashed(password, hasher) for address, password in passwords.items()}
    return replace(existing, mailboxes={**existing.mailboxes, **fresh})


def new_password() -> str:
    """Return a random password that can be read out: 100 bits in four groups."""
    return "-".join("".join(secrets.choice(PASSWORD_ALPHABET) for _ in range(size)) for size in PASSWORD_GROUPS)


def hashed(password: str, hasher: PasswordHasher = HASHER) -> str:
    """Return the hash of *password* as Dovecot stores it."""
    return f"{{ARGON2ID}}{hasher.hash(password)}"


def public_keys(private: Secrets) -> PublicKeys:
    """Return the public halves of *private*. Pure."""
    dkim: dict[str, dict[str, str]] = {}
    for (domain, selector), pem in sorted(private.dkim.items()):
        dkim.setdefault(domain, {})[selector] = _dkim_public(pem)
    return PublicKeys(
        wireguard=RoleKeys(**{str(role): _wireguard_public(key) for role, key in private.wireguard.items()}),
        ssh=RoleKeys(**{str(role): _ssh_public(key) for role, key in private.ssh.items()}),
        dkim=dkim,
        tls=_tls_public(private.tls) if private.tls else None,
    )


def credentials(private: Secrets, topology: Topology, role: Role) -> dict[str, bytes]:
    """Return what the image of *role* finds in /run/credstore: content by file name. Pure."""
    if lacking := _lacking(private, topology):
        raise ImagebuilderError(f"the secrets lack {lacking}", hint=INIT_HINT)
    files = {
        "network.wireguard.private.50-wg0": f"{private.wireguard[role]}\n",
        "ssh.hostkey": private.ssh[role],
    }
    if role is Role.PROXY and private.tls:
        files["tls.key"] = private.tls
    if role is Role.PROXY:
        files |= relay_passwords(private.tokens, topology)
    if role is Role.CLIENT:
        if topology.acme.dns_provider is not None:
            files["acme.env"] = acme_environment(private.tokens)
        lines = (passwd_line(box.address, private.mailboxes[box.address]) for box in topology.mail.mailboxes)
        files["mailboxes.passwd"] = "".join(lines)
        for domain in topology.mail.domains:
            name = (domain.name, domain.dkim_selector)
            files[f"dkim.{domain.name}.{domain.dkim_selector}.key"] = private.dkim[name]
    return {name: content.encode() for name, content in files.items()}


def passwd_line(address: str, hashed_password: str, further: str = "") -> str:
    """Return the line of a mailbox in Dovecot's passwd-file, with *further* fields of its own. Pure."""
    # user:password:uid:gid:gecos:home:shell:extra
    return f"{address}:{hashed_password}::::::{further}\n"


def relay_passwords(tokens: Mapping[str, str], topology: Topology) -> dict[str, str]:
    """Return the password of each relay that wants one, by the name of its credential. Pure."""
    files = {}
    for relay in topology.mail.relays:
        if relay.username is None:
            continue
        name = f"{RELAY_TOKEN}{relay.host}"
        if name not in tokens:
            raise ImagebuilderError(
                f"the secrets lack the password of the relay {relay.host}",
                hint=f"imagebuilder secrets import tokens/{name}, and the password on standard input",
            )
        files[f"relay.{relay.host}.password"] = tokens[name]
    return files


def acme_environment(tokens: Mapping[str, str]) -> str:
    """Return the variables of lego that *tokens* with ACME_TOKEN in front of their names are, for a shell. Pure."""
    chosen = sorted((name, token) for name, token in tokens.items() if name.startswith(ACME_TOKEN))
    variables = {re.sub("[^A-Z0-9]", "_", name.removeprefix(ACME_TOKEN).upper()): token for name, token in chosen}
    return "".join(f"{name}={shlex.quote(token)}\n" for name, token in variables.items())


def _lacking(private: Secrets, topology: Topology) -> str | None:
    """Return what *topology* needs and *private* hasn't, named, or None. Pure."""
    for role in Role:
        if role not in private.wireguard or role not in private.ssh:
            return f"a key of the {role}"
    for domain in topology.mail.domains:
        if (domain.name, domain.dkim_selector) not in private.dkim:
            return f"the DKIM key of {domain.name} with the selector {domain.dkim_selector!r}"
    for mailbox in topology.mail.mailboxes:
        if mailbox.address not in private.mailboxes:
            return f"a password for {mailbox.address}"
    return None


def wireguard_key() -> str:
    """Return a new X25519 private key in base64."""
    return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()


def ssh_key() -> str:
    """Return a new Ed25519 key in OpenSSH's PEM form."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def dkim_key() -> str:
    """Return a new RSA key, PKCS#8 in PEM."""
    key = generate_private_key(public_exponent=65537, key_size=DKIM_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def tls_key() -> str:
    """Return a new P-256 key, PKCS#8 in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _tls_public(pem: str) -> str:
    """Return what a TLSA record with the parameters 3 1 1 says of a key (RFC 6698 section 2.1)."""
    key = load_pem_private_key(pem.encode(), None)
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _wireguard_public(private: str) -> str:
    """Return the public half of a WireGuard key, both in base64."""
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private))
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _ssh_public(pem: str) -> str:
    """Return the public half of a host key as one line."""
    key = load_ssh_private_key(pem.encode(), None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _dkim_public(pem: str) -> str:
    """Return the public half of a DKIM key: DER in base64."""
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, RSAPrivateKey):
        raise TypeError("DKIM keys are RSA")
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()
