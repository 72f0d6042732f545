"""The form of the secrets file; no message repeats a value of it. Pure."""

import base64
import binascii
import re
from typing import Annotated

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from pydantic import AfterValidator, Field

from imagebuilder.topology.keys import MIN_RSA_BITS, WIREGUARD_KEY_BYTES
from imagebuilder.topology.model import HostName, MailAddress, Model, Role
from imagebuilder.topology.names import Selector, refused

# Dovecot's scheme in front, then the string form of the Argon2 reference implementation
HASH = re.compile(
    r"\{ARGON2ID\}\$argon2id\$v=19\$m=[0-9]+,t=[0-9]+,p=[0-9]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+"
    r"|\{(BLF-CRYPT|SHA512-CRYPT)\}\$[A-Za-z0-9./$=]+"
)


def wireguard_private(value: str) -> str:
    """Return *value*, a WireGuard private key in base64."""
    try:
        key = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != WIREGUARD_KEY_BYTES:
        raise refused("is no WireGuard key: base64 of 32 bytes")
    return value


def ssh_private(value: str) -> str:
    """Return *value*, an Ed25519 key in OpenSSH's form without a passphrase."""
    try:
        key = load_ssh_private_key(value.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise refused("is no Ed25519 key in OpenSSH's form without a passphrase")
    return value


def dkim_private(value: str) -> str:
    """Return *value*, an RSA key in PEM without a passphrase."""
    try:
        key = load_pem_private_key(value.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey) or key.key_size < MIN_RSA_BITS:
        raise refused(f"is no RSA key of {MIN_RSA_BITS} bits or more in PEM form without a passphrase")
    return value


def tls_private(value: str) -> str:
    """Return *value*, a P-256 key in PEM without a passphrase."""
    try:
        key = load_pem_private_key(value.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise refused("is no P-256 key in PEM form without a passphrase")
    return value


def token(value: str) -> str:
    """Return *value*, one line that a program can show as its right to something."""
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise refused("is no token: one line of plain letters, digits and signs")
    return value


def password_hash(value: str) -> str:
    """Return *value*, a password hash that can stand in a line of Dovecot's passwd-file."""
    if not HASH.fullmatch(value):
        raise refused("is no password hash, as `doveadm pw -s ARGON2ID` prints them")
    return value


TokenName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class PrivateKeys(Model):
    """What ``NAME.secrets.toml`` holds; whatever is missing `init` adds."""

    wireguard: dict[Role, Annotated[str, AfterValidator(wireguard_private)]] = Field(default_factory=dict)
    """WireGuard private key of each role, base64."""
    ssh: dict[Role, Annotated[str, AfterValidator(ssh_private)]] = Field(default_factory=dict)
    """SSH host key of each role, Ed25519 in OpenSSH's form."""
    dkim: dict[HostName, dict[Selector, Annotated[str, AfterValidator(dkim_private)]]] = Field(default_factory=dict)
    """DKIM key by domain and selector, RSA in PEM."""
    mailboxes: dict[MailAddress, Annotated[str, AfterValidator(password_hash)]] = Field(default_factory=dict)
    """Password hash by address."""
    tls: Annotated[str, AfterValidator(tls_private)] | None = None
    """Key of the proxy's certificate, P-256 in PEM; it stays the same so that a TLSA record can name it."""
    tokens: dict[TokenName, Annotated[str, AfterValidator(token)]] = Field(default_factory=dict)
    """Token by the operator's name for it."""
    passwords: dict[MailAddress, Annotated[str, AfterValidator(token)]] = Field(default_factory=dict)
    """First password by address, until it has been handed over."""
