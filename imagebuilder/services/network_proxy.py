"""The proxy's public addresses. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class Route:
    """A way to the Internet."""

    gateway: str
    """Address of the router."""
    on_link: bool
    """Whether the router is reached directly although our prefix does not say so."""


@dataclass(frozen=True)
class NetworkProxyValues(Values):
    """What overlays/network-proxy may refer to."""

    dhcp: bool
    """Whether the provider hands out the addresses."""
    addresses: tuple[str, ...]
    """Otherwise, the addresses with prefix length."""
    routes: tuple[Route, ...]
    """And the routers."""


def route(address: IPv4Interface | IPv6Interface, gateway: IPv4Address | IPv6Address) -> Route:
    """Return the way over *gateway* from *address*."""
    return Route(gateway=str(gateway), on_link=gateway not in address.network and not gateway.is_link_local)


def network_proxy_values(site: Site) -> NetworkProxyValues:
    """Return the values of the network card."""
    proxy = site.topology.proxy
    if proxy.dhcp:
        return NetworkProxyValues(dhcp=True, addresses=(), routes=())
    pairs = [(proxy.ipv4, proxy.ipv4_gateway), (proxy.ipv6, proxy.ipv6_gateway)]
    return NetworkProxyValues(
        dhcp=False,
        addresses=tuple(str(address) for address, _ in pairs if address),
        routes=tuple(route(address, gateway) for address, gateway in pairs if address and gateway),
    )


SERVICE = Service(name="network-proxy", roles=(Role.PROXY,), values=network_proxy_values)
