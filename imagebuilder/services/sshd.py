"""The administrator's way in, by key only; to the client it leads through the proxy. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class SshdValues(Values):
    """What overlays/sshd may refer to."""

    listen_addresses: tuple[str, ...]
    """Where it listens."""
    authorized_keys: tuple[str, ...]
    """Lines of authorized_keys for root."""
    jump_target: str
    """The only "host:port" that a connection may be forwarded to; empty: none."""


def sshd_values(site: Site) -> SshdValues:
    """Return the values of sshd."""
    tunnel = site.topology.tunnel
    is_proxy = site.role is Role.PROXY
    return SshdValues(
        listen_addresses=("0.0.0.0", "::") if is_proxy else (str(tunnel.client_address), str(tunnel.client_ipv6)),
        authorized_keys=site.topology.admin.ssh_keys,
        jump_target=f"{tunnel.client_address}:22" if is_proxy else "",
    )


SERVICE = Service(name="sshd", roles=(Role.PROXY, Role.CLIENT), values=sshd_values, units=("ssh.service",))
