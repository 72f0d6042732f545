"""Valkey on the client: what Rspamd remembers. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class ValkeyValues(Values):
    """What overlays/valkey may refer to: nothing, it is the same everywhere."""


def valkey_values(site: Site) -> ValkeyValues:
    """Return the values of Valkey."""
    return ValkeyValues()


SERVICE = Service(name="valkey", roles=(Role.CLIENT,), values=valkey_values, units=("valkey-server.service",))
