"""The public halves of the keys, in the file beside the topology that building needs. Pure."""

from imagebuilder.topology.model import HostName, Model


class RoleKeys(Model):
    """One value per role."""

    proxy: str
    client: str


class PublicKeys(Model):
    """What `init` writes to ``NAME.public.toml``: building needs it, and no secret."""

    wireguard: RoleKeys
    """WireGuard public keys, base64 as `wg` prints them."""
    ssh: RoleKeys
    """SSH host keys, one line each: "ssh-ed25519 AAAA…"."""
    dkim: dict[HostName, dict[str, str]]
    """Per mail domain and selector, the RSA public key (DER SubjectPublicKeyInfo) in base64, as in the p= tag."""
