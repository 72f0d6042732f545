"""Each end of the WireGuard tunnel; the client dials. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class TunnelValues(Values):
    """What overlays/tunnel may refer to."""

    addresses: tuple[str, ...]
    """This end's addresses, each with the prefix length of the tunnel's network."""
    mtu: int
    """Largest packet inside the tunnel, in bytes."""
    listen_port: int
    """UDP port that is listened on; 0: any, as it is this end that dials."""
    peer_public_key: str
    """The other end's public key."""
    peer_addresses: tuple[str, ...]
    """The other end's addresses in the tunnel, each as a network of its own."""
    endpoint: str
    """"address:port" that is dialled; empty: the other end dials."""
    keepalive_s: int
    """Seconds between the packets that keep the way back open."""


def tunnel_values(site: Site) -> TunnelValues:
    """Return the values of *site*'s end of the tunnel."""
    tunnel = site.topology.tunnel
    keys = site.public.wireguard
    is_proxy = site.role is Role.PROXY
    here, there = (tunnel.proxy_address, tunnel.proxy_ipv6), (tunnel.client_address, tunnel.client_ipv6)
    if not is_proxy:
        here, there = there, here
    lengths = (tunnel.network.prefixlen, tunnel.network_ipv6.prefixlen)
    return TunnelValues(
        addresses=tuple(f"{own}/{length}" for own, length in zip(here, lengths, strict=True)),
        mtu=tunnel.mtu,
        listen_port=tunnel.port if is_proxy else 0,
        peer_public_key=keys.client if is_proxy else keys.proxy,
        peer_addresses=tuple(f"{other}/{other.max_prefixlen}" for other in there),
        endpoint="" if is_proxy else f"{site.topology.proxy.ipv4.ip}:{tunnel.port}",
        keepalive_s=tunnel.keepalive_s,
    )


SERVICE = Service(name="tunnel", roles=(Role.PROXY, Role.CLIENT), values=tunnel_values)
