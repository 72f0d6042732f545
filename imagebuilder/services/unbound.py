"""The resolver of each host: recursive, validating, for itself only. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class UnboundValues(Values):
    """What overlays/unbound may refer to: nothing, it is the same everywhere."""


def unbound_values(site: Site) -> UnboundValues:
    """Return the values of the resolver."""
    return UnboundValues()


SERVICE = Service(name="unbound", roles=(Role.PROXY, Role.CLIENT), values=unbound_values, units=("unbound.service",))
