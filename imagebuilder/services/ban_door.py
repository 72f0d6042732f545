"""Where the client names who guesses passwords, at the proxy. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role

DOOR_PORT = 2527


@dataclass(frozen=True)
class BanDoorValues(Values):
    """What overlays/ban-door may refer to."""

    listen: tuple[str, ...]
    """The proxy's addresses in the tunnel, each with its port."""
    client_addresses: tuple[str, ...]
    """Who may name an address."""


def ban_door_values(site: Site) -> BanDoorValues:
    """Return the values of the door."""
    tunnel = site.topology.tunnel
    return BanDoorValues(
        listen=(f"{tunnel.proxy_address}:{DOOR_PORT}", f"[{tunnel.proxy_ipv6}]:{DOOR_PORT}"),
        client_addresses=(str(tunnel.client_address), str(tunnel.client_ipv6)),
    )


SERVICE = Service(name="ban-door", roles=(Role.PROXY,), values=ban_door_values, units=("ban-door.socket",))
