"""Mailboxes on the client that its secrets partition alone names: they come and go without another image. Pure."""

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


def guests_values(_: Site) -> Values:
    """Return the values of what tells the mail system of them."""
    return Values()


SERVICE = Service(name="guests", roles=(Role.CLIENT,), values=guests_values, units=("guests.service",))
