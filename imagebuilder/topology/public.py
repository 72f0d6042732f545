"""The public halves of the keys, in the file beside the topology that building needs. Pure."""

from typing import Generic, TypeVar

from imagebuilder.topology.keys import DkimKey, SshKey, TlsKey, WireguardKey
from imagebuilder.topology.model import HostName, Model, Role
from imagebuilder.topology.names import Selector

Key = TypeVar("Key")


class RoleKeys(Model, Generic[Key]):
    """One value per role."""

    proxy: Key
    """The proxy's."""
    client: Key
    """The client's."""

    def of(self, role: Role) -> Key:
        """Return the value of *role*."""
        return self.proxy if role is Role.PROXY else self.client


class PublicKeys(Model):
    """What `init` writes to ``NAME.public.toml``: building needs it, and no secret."""

    wireguard: RoleKeys[WireguardKey]
    """WireGuard public keys, base64 as `wg` prints them."""
    ssh: RoleKeys[SshKey]
    """SSH host keys, one line each: "ssh-ed25519 AAAA…"."""
    dkim: dict[HostName, dict[Selector, DkimKey]]
    """Per mail domain and selector, the RSA public key (DER SubjectPublicKeyInfo) in base64, as in the p= tag."""
    tls: TlsKey | None = None
    """SHA-256 of the key of the proxy's certificate, in hexadecimal, as in its TLSA record."""
