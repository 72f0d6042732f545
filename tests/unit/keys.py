"""Keys of operators, for tests: SSH keys with and without a passphrase, and age's own."""

from pathlib import Path

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def ssh_pair(path: Path, passphrase: str = "") -> str:
    """Write a new private SSH key to *path* and return its public half."""
    key = Ed25519PrivateKey.generate()
    protection = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, protection))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def age_pair(path: Path) -> str:
    """Write a new private age key to *path* as age-keygen does and return its public half."""
    key = pyrage.x25519.Identity.generate()
    path.write_text(f"# created: 2026-11-22\n# public key: {key.to_public()}\n{key}\n")
    return str(key.to_public())
