"""The client's place in the network at home: DHCP or a static address. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class NetworkClientValues(Values):
    """What overlays/network-client may refer to."""

    address: str
    """IPv4 address with prefix length; empty: DHCP."""
    gateway: str
    """Router, with a static address."""


def network_client_values(site: Site) -> NetworkClientValues:
    """Return the values of the client's network."""
    client = site.topology.client
    return NetworkClientValues(
        address=str(client.ipv4) if client.ipv4 else "",
        gateway=str(client.ipv4_gateway) if client.ipv4_gateway else "",
    )


SERVICE = Service(name="network-client", roles=(Role.CLIENT,), values=network_client_values)
