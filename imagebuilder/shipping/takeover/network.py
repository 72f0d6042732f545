"""The network settings that a machine has now: read from its facts, compared with a topology, written down. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any

from imagebuilder.errors import ImagebuilderError
from imagebuilder.shipping.takeover.facts import Card, Facts
from imagebuilder.topology.model import Proxy

CREDENTIAL = "network.network.10-carried-over"
"""What systemd-network-generator(8) makes a file of, which comes before the image's own for the same card."""
ETHERNET_MTU = 1500

Interface = IPv4Interface | IPv6Interface
Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Router:
    """A way to the Internet."""

    version: int
    """4 or 6: whose packets take it."""
    address: Address | None
    """None: everything is reached directly, as on a line between two points."""


@dataclass(frozen=True)
class Network:
    """How one network card reaches the Internet."""

    mac: str
    mtu: int
    addresses: tuple[Interface, ...]
    """Those that others may know: no link-local and no passing ones."""
    routers: tuple[Router, ...]
    dhcp: bool
    """Whether its IPv4 address was handed out."""
    advertised: bool
    """Whether its way into IPv6 was."""

    def on_link(self, router: Address) -> bool:
        """Return whether *router* is reached directly although no prefix says so."""
        return not router.is_link_local and not any(router in address.network for address in self.addresses)


class NoNetworkError(ImagebuilderError):
    """A machine's way to the Internet can't be carried over."""


def uplink(facts: Facts) -> tuple[Card, Card]:
    """Return the network card of the default route and the interface that has its settings, most often the same."""
    cards = {card.name: card for card in facts.cards}
    names = [str(route.get("dev")) for version in (4, 6) for route in _defaults(facts, version)]
    settings = next((cards[name] for name in names if name in cards), None)
    if settings is None:
        raise NoNetworkError("it has no default route, or its program ip prints no JSON (iproute2 before 4.13)")
    if settings.kind == "bridge":
        ports = [card for card in facts.cards if card.master == settings.name and not card.kind and card.ethernet]
        if len(ports) == 1:
            return ports[0], settings
    if settings.kind or not settings.ethernet:
        kind = settings.kind or "no Ethernet"
        raise NoNetworkError(f"its way to the Internet is {settings.name}, which is no network card ({kind})")
    return settings, settings


def network_of(facts: Facts) -> Network:
    """Return how the machine reaches the Internet; raise NoNetworkError when that is not understood."""
    card, settings = uplink(facts)
    lasting = [address for address in settings.addresses if address.get("scope") == "global" and _lasting(address)]
    ways = {version: _defaults(facts, version, settings.name) for version in (4, 6)}
    return Network(
        mac=card.mac.lower(),
        mtu=settings.mtu,
        addresses=tuple(ip_interface(f"{entry['local']}/{entry['prefixlen']}") for entry in lasting),
        routers=tuple(_router(version, routes[0]) for version, routes in ways.items() if routes),
        dhcp=any(entry["family"] == "inet" and entry.get("dynamic") for entry in lasting),
        advertised=any(route.get("protocol") == "ra" for route in ways[6]),
    )


def _lasting(address: Mapping[str, Any]) -> bool:
    return not (address.get("temporary") or address.get("deprecated") or address.get("tentative"))


def _defaults(facts: Facts, version: int, card: str | None = None) -> list[Mapping[str, Any]]:
    """Return the default routes of *version*, through *card* if one is named, the best first."""
    found = [route for route in facts.routes[version] if route.get("dst") == "default"]
    return sorted(
        (route for route in found if card is None or route.get("dev") == card),
        key=lambda route: int(route.get("metric", 0)),
    )


def _router(version: int, route: Mapping[str, Any]) -> Router:
    if "via" in route or "nexthops" in route:
        raise NoNetworkError("its default route has several routers, or an IPv6 one for IPv4: not carried over")
    return Router(version, ip_address(route["gateway"]) if "gateway" in route else None)


def differences(network: Network, proxy: Proxy) -> tuple[str, ...]:
    """Return in what the topology's *proxy* would be reached otherwise than the machine is now, a sentence each."""
    found: list[str] = []
    for key, wanted, router in (
        ("ipv4", proxy.ipv4, proxy.ipv4_gateway), ("ipv6", proxy.ipv6, proxy.ipv6_gateway)
    ):  # fmt: skip
        if wanted is None:
            continue
        here = [address for address in network.addresses if address.version == wanted.version]
        same = next((address for address in here if address.ip == wanted.ip), None)
        if same is None:
            told = ", ".join(map(str, here)) or "none"
            found.append(f"proxy.{key} is {wanted}, and the machine has {told}")
        elif proxy.dhcp:
            continue
        elif same.network != wanted.network:
            found.append(f"proxy.{key} is {wanted}, and the machine has {same}")
        now = next((way.address for way in network.routers if way.version == wanted.version), None)
        if not proxy.dhcp and router is not None and now != router:
            found.append(f"proxy.{key}_gateway is {router}, and the machine goes through {now or 'no router'}")
    return tuple(found)


def known_by_others(network: Network, proxy: Proxy) -> bool:
    """Return whether the machine has the addresses that the topology, and so DNS and the client, know it by."""
    own = {address.ip for address in network.addresses}
    return proxy.ipv4.ip in own and (proxy.ipv6 is None or proxy.ipv6.ip in own)


def is_handed_out(network: Network, proxy: Proxy) -> bool:
    """Return whether the image will get its addresses as the topology says it does, by DHCP."""
    return network.dhcp and (proxy.ipv6 is None or network.advertised)


def settings_file(network: Network, *, fixed: bool) -> str:
    """Return *network* as a file of systemd-networkd; with *fixed* also what was handed out is written down.

    IPv6 addresses are so always: what is made of an advertised prefix differs from system to system.
    """
    dhcp, advertised = network.dhcp and not fixed, network.advertised and not fixed
    lines = ["[Match]", f"MACAddress={network.mac}", "Kind=!*", ""]
    if network.mtu != ETHERNET_MTU:
        lines += ["[Link]", f"MTUBytes={network.mtu}", ""]
    lines += ["[Network]", f"DHCP={'ipv4' if dhcp else 'no'}", f"IPv6AcceptRA={'yes' if advertised else 'no'}"]
    lines += [f"Address={address}" for address in network.addresses if address.version == 6 or not dhcp]
    lines += ["IPv6PrivacyExtensions=no", "LinkLocalAddressing=ipv6"]
    lines += ["LLMNR=no", "MulticastDNS=no", "LLDP=no", "EmitLLDP=no"]
    if dhcp:
        lines += ["", "[DHCPv4]", "UseDNS=no", "UseDomains=no", "UseHostname=no", "UseNTP=no", "SendHostname=no"]
    if advertised:
        lines += ["", "[IPv6AcceptRA]", "UseAutonomousPrefix=no", "DHCPv6Client=no", "UseDNS=no", "UseDomains=no"]
    for way in network.routers:
        if not (dhcp if way.version == 4 else advertised):
            lines += ["", "[Route]", *_route(network, way)]
    return "\n".join(lines) + "\n"


def _route(network: Network, way: Router) -> list[str]:
    if way.address is None:
        return [f"Destination={'0.0.0.0/0' if way.version == 4 else '::/0'}", "Scope=link"]
    return [f"Gateway={way.address}", *(["GatewayOnLink=yes"] if network.on_link(way.address) else [])]


def told(network: Network) -> str:
    """Return *network* in one line, for people."""
    ways = ", ".join(str(way.address or "the line itself") for way in network.routers)
    by = " by DHCP" if network.dhcp else ""
    return f"{', '.join(map(str, network.addresses))}{by} through {ways or 'nothing'}, card {network.mac}"
