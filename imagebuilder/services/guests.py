"""Mailboxes on the client that its secrets partition alone names: they come and go without another image. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class GuestsValues(Values):
    """What overlays/guests may refer to: nothing."""


def guests_values(_: Site) -> GuestsValues:
    """Return the values of what tells the mail system of guests."""
    return GuestsValues()


SERVICE = Service(name="guests", roles=(Role.CLIENT,), values=guests_values, units=("guests.service",))
