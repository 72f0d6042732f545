"""Where the client names who guesses passwords, at the proxy. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role

DOOR_PORT = 2527


@dataclass(frozen=True)
class BanDoorValues(Values):
    """What overlays/ban-door may refer to."""

    listen_address: str
    """The proxy's address in the tunnel."""
    listen_port: int
    """Its port there."""
    client_address: str
    """Who may name an address."""


def ban_door_values(site: Site) -> BanDoorValues:
    """Return the values of the door."""
    tunnel = site.topology.tunnel
    return BanDoorValues(
        listen_address=str(tunnel.proxy_address),
        listen_port=DOOR_PORT,
        client_address=str(tunnel.client_address),
    )


SERVICE = Service(name="ban-door", roles=(Role.PROXY,), values=ban_door_values, units=("ban-door.socket",))
