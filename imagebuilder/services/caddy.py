"""The web front. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.certificate import public_names
from imagebuilder.topology import Role


@dataclass(frozen=True)
class CaddyValues(Values):
    """What overlays/caddy may refer to."""

    names: tuple[str, ...]
    """Names that are answered, the mail host's first."""
    title: str
    """Title of the one page there is."""


def caddy_values(site: Site) -> CaddyValues:
    """Return the values of the web front."""
    return CaddyValues(names=public_names(site.topology), title=site.topology.proxy.hostname)


SERVICE = Service(name="caddy", roles=(Role.PROXY,), values=caddy_values, units=("caddy.service",))
