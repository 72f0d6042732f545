"""Rules about addresses, routers and the tunnel. Pure."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from imagebuilder.errors import Problem
from imagebuilder.topology.parts import Parts

# RFC 1918, and RFC 6598 for those whose home uses up all of it
PRIVATE_NETWORKS = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
LOCAL_NETWORK = IPv6Network("fc00::/7")
"""RFC 4193"""
LONGEST_TUNNEL_PREFIX = 30
"""Two hosts, the network's own address and the broadcast address."""
LONGEST_TUNNEL_PREFIX_IPV6 = 126
"""Two hosts and the routers' common address (RFC 4291 section 2.6.1)."""
TAKEN_PORTS = {22: "SSH", 68: "the DHCP client", 443: "the web server", 546: "the DHCPv6 client"}
"""Ports of the proxy that the tunnel can't have, and whose they are (443: HTTP/3 is UDP)."""

Interface = IPv4Interface | IPv6Interface
Address = IPv4Address | IPv6Address


def network_problems(parts: Parts) -> Iterator[Problem]:
    """Yield what is wrong with addresses, by itself and between tables."""
    if proxy := parts.proxy:
        dhcp = proxy.dhcp or parts.doubts("proxy.dhcp")
        yield from _host("proxy.ipv4", proxy.ipv4, public=True)
        yield from _router("proxy.ipv4", proxy.ipv4, proxy.ipv4_gateway, optional=dhcp)
        if proxy.ipv6:
            yield from _host("proxy.ipv6", proxy.ipv6, public=True)
        if proxy.ipv6 or not parts.doubts("proxy.ipv6"):
            yield from _router("proxy.ipv6", proxy.ipv6, proxy.ipv6_gateway, optional=dhcp)
    if client := parts.client:
        if client.ipv4:
            yield from _host("client.ipv4", client.ipv4, public=False)
        if client.ipv4 or not parts.doubts("client.ipv4"):
            yield from _router("client.ipv4", client.ipv4, client.ipv4_gateway, optional=False)
    yield from _tunnel(parts)


def _host(place: str, interface: Interface, *, public: bool) -> Iterator[Problem]:
    """Yield why no host can have the address of *interface*."""
    address, network = interface.ip, interface.network
    if kind := _unusable(address, link_local=False):
        yield Problem(place, f"'{address}' is {kind}; no host can be reached by it")
    elif network.prefixlen < network.max_prefixlen - 1:
        if address == network.network_address:
            yield Problem(place, f"'{address}' is the address of the network {network} itself; a host needs another")
        elif address == network.broadcast_address and address.version == 4:
            yield Problem(place, f"'{address}' is the broadcast address of {network}; a host needs another")
    if network.prefixlen == 0:
        yield Problem(place, f"'{interface}': a prefix of length 0 is the whole Internet")
    if public and isinstance(address, IPv6Address) and address.ipv4_mapped:
        yield Problem(place, f"'{address}' is an IPv4 address in the guise of IPv6")


def _unusable(address: Address, *, link_local: bool) -> str | None:
    """Return what keeps *address* from being a host's, or None; *link_local* ones may be allowed."""
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_multicast:
        return "a multicast address"
    if isinstance(address, IPv4Address) and (address.is_reserved or address in IPv4Network("0.0.0.0/8")):
        return "a reserved address"
    if address.is_link_local and not link_local:
        return "a link-local address"
    return None


def _router(host: str, interface: Interface | None, router: Address | None, *, optional: bool) -> Iterator[Problem]:
    """Yield what is wrong with the *router* of *interface*, the key *host* of the topology."""
    place = f"{host}_gateway"
    if interface is None:
        if router is not None:
            yield Problem(place, f"'{router}' is the router of an address that isn't there: {host} is missing")
        return
    if router is None:
        if not optional:
            unless = " unless dhcp is true" if host.startswith("proxy.") else ""
            yield Problem(place, f"is missing; {host} needs a router{unless}")
        return
    network = interface.network
    single = network.prefixlen == network.max_prefixlen
    link_local = isinstance(router, IPv6Address) and router.is_link_local
    if router == interface.ip:
        yield Problem(place, f"'{router}' is the host's own address ({host})")
    elif kind := _unusable(router, link_local=link_local):
        yield Problem(place, f"'{router}' is {kind}; no router can be reached by it")
    elif link_local:
        return
    elif router not in network and not single:
        yield Problem(place, f"'{router}' is not in {network}, the network of {host}")
    elif network.prefixlen < network.max_prefixlen - 1 and (
        (router == network.broadcast_address and router.version == 4)
        or (router == network.network_address and router.version == 4)
    ):  # fmt: skip
        yield Problem(place, f"'{router}' is no host's address in {network}")


def _tunnel(parts: Parts) -> Iterator[Problem]:
    """Yield what is wrong with the tunnel's network and port."""
    if not parts.tunnel:
        return
    network, port = parts.tunnel.network, parts.tunnel.port
    if not any(network.subnet_of(private) for private in PRIVATE_NETWORKS):
        yield Problem("tunnel.network", f"'{network}' is not private; take one inside 10.0.0.0/8, as 10.0.0.0/24")
    if network.prefixlen > LONGEST_TUNNEL_PREFIX:
        yield Problem("tunnel.network", f"'{network}' has no room for two hosts; /{LONGEST_TUNNEL_PREFIX} has")
    hosts: list[tuple[str, IPv4Interface | None, IPv4Address | None]] = []
    if parts.proxy:
        hosts.append(("proxy.ipv4", parts.proxy.ipv4, parts.proxy.ipv4_gateway))
    if parts.client:
        hosts.append(("client.ipv4", parts.client.ipv4, parts.client.ipv4_gateway))
    for place, interface, router in hosts:
        if interface and network.overlaps(interface.network):
            yield Problem("tunnel.network", f"'{network}' overlaps {interface.network}, the network of {place}")
        elif router and router in network:
            yield Problem("tunnel.network", f"'{network}' has {place}_gateway ({router}) in it")
    yield from _tunnel_ipv6(parts, parts.tunnel.network_ipv6)
    if port in TAKEN_PORTS:
        yield Problem("tunnel.port", f"{port} is the port of {TAKEN_PORTS[port]}; take another, as 51820")


def _tunnel_ipv6(parts: Parts, network: IPv6Network) -> Iterator[Problem]:
    """Yield what is wrong with the tunnel's IPv6 *network*."""
    place = "tunnel.network_ipv6"
    if not network.subnet_of(LOCAL_NETWORK):
        yield Problem(place, f"'{network}' is not private; take one inside fd00::/8, with digits drawn at random")
    if network.prefixlen > LONGEST_TUNNEL_PREFIX_IPV6:
        yield Problem(place, f"'{network}' has no room for two hosts; /{LONGEST_TUNNEL_PREFIX_IPV6} has")
    if parts.proxy and parts.proxy.ipv6 and network.overlaps(parts.proxy.ipv6.network):
        yield Problem(place, f"'{network}' overlaps {parts.proxy.ipv6.network}, the network of proxy.ipv6")
    elif parts.proxy and parts.proxy.ipv6_gateway and parts.proxy.ipv6_gateway in network:
        yield Problem(place, f"'{network}' has proxy.ipv6_gateway ({parts.proxy.ipv6_gateway}) in it")
