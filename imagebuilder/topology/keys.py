"""Public keys as an operator or a file may give them: SSH, WireGuard, DKIM, TLS; no message repeats one. Pure."""

import base64
import binascii
import re
from typing import Annotated

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_ssh_public_key
from pydantic import AfterValidator

from imagebuilder.topology.names import refused

WIREGUARD_KEY_BYTES = 32
MIN_RSA_BITS = 2048
"""What sshd and mail receivers still accept without doubt (RFC 8301 section 3.2 for DKIM)."""

SSH_KEY_TYPE = r"(?:ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)[A-Za-z0-9@.-]+"
# sshd(8), AUTHORIZED_KEYS FILE FORMAT: options without spaces outside quotes, type, base64, comment
SSH_LINE = re.compile(
    r"(?:(?!" + SSH_KEY_TYPE + r"[ \t])(?P<options>(?:[^\s\"]|\"(?:[^\"\\]|\\.)*\")+)[ \t]+)?"
    r"(?P<type>" + SSH_KEY_TYPE + r")[ \t]+(?P<base64>[A-Za-z0-9+/]+=*)(?:[ \t]+(?P<comment>.*))?"
)
PRIVATE_KEY_MARKS = ("PRIVATE KEY", "b3BlbnNzaC1rZXktdjE")
"""What private keys contain; the second is the base64 of OpenSSH's own form."""


def ssh_key(value: str) -> str:
    """Return *value*, one line of an authorized_keys file with a public key that sshd accepts."""
    line = value.strip()
    if any(mark in line for mark in PRIVATE_KEY_MARKS):
        raise refused("is a private key, and now it stands in this file: replace it; the public one ends in .pub")
    if "\n" in line or "\r" in line:
        raise refused("is more than one line: one public key per entry")
    if not line.isprintable():
        raise refused("has a character that can't be printed")
    found = SSH_LINE.fullmatch(line)
    if not found:
        raise refused("is no public SSH key; one looks like 'ssh-ed25519 AAAA… name'")
    if found["type"].endswith("-cert-v01@openssh.com"):
        raise refused("is a certificate; a public key is wanted")
    try:
        key = load_ssh_public_key(f"{found['type']} {found['base64']}".encode())
    except (ValueError, UnsupportedAlgorithm):
        raise refused(
            f"is no {found['type']} key that can be used: its base64 is damaged or its kind too old"
        ) from None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise refused(f"is an RSA key of {key.key_size} bits; sshd wants {MIN_RSA_BITS} or more")
    return line


def wireguard_key(value: str) -> str:
    """Return *value*, a WireGuard public key in base64."""
    try:
        key = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != WIREGUARD_KEY_BYTES:
        raise refused(f"is no WireGuard key: base64 of {WIREGUARD_KEY_BYTES} bytes")
    return value


def dkim_key(value: str) -> str:
    """Return *value*, an RSA public key (DER SubjectPublicKeyInfo) in base64."""
    try:
        key = load_der_public_key(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey) or key.key_size < MIN_RSA_BITS:
        raise refused(f"is no RSA public key of {MIN_RSA_BITS} bits or more in base64")
    return value


def tls_key(value: str) -> str:
    """Return *value*, the SHA-256 of a public key in lower-case hexadecimal."""
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise refused("is no SHA-256 in hexadecimal: 64 digits")
    return value


SshKey = Annotated[str, AfterValidator(ssh_key)]
WireguardKey = Annotated[str, AfterValidator(wireguard_key)]
DkimKey = Annotated[str, AfterValidator(dkim_key)]
TlsKey = Annotated[str, AfterValidator(tls_key)]
