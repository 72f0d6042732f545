"""What every host needs before any service: names, kernel settings, the journal. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class SystemValues(Values):
    """What overlays/system may refer to."""

    hostname: str
    """The host's full name."""
    short_name: str
    """Its first label."""


def system_values(site: Site) -> SystemValues:
    """Return the values of the host itself."""
    host = site.topology.proxy if site.role is Role.PROXY else site.topology.client
    return SystemValues(hostname=host.hostname, short_name=host.hostname.partition(".")[0])


SERVICE = Service(name="system", roles=(Role.PROXY, Role.CLIENT), values=system_values)
