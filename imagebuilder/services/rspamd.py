"""Rspamd on the client: which key signs for which domain. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role

CREDENTIALS = "/run/credentials/rspamd.service"
"""Where systemd puts the credentials of that unit (systemd.exec(5))."""


@dataclass(frozen=True)
class DkimKey:
    """What signs for a domain."""

    domain: str
    """The mail domain."""
    selector: str
    """Label under _domainkey where the public key is."""
    path: str
    """The private key on the host."""


@dataclass(frozen=True)
class RspamdValues(Values):
    """What overlays/rspamd may refer to."""

    keys: tuple[DkimKey, ...]
    """One per mail domain."""


def rspamd_values(site: Site) -> RspamdValues:
    """Return the values of Rspamd."""
    domains = sorted((domain.name, domain.dkim_selector) for domain in site.topology.mail.domains)
    return RspamdValues(
        keys=tuple(DkimKey(name, selector, f"{CREDENTIALS}/dkim.{name}.{selector}.key") for name, selector in domains)
    )


SERVICE = Service(name="rspamd", roles=(Role.CLIENT,), values=rspamd_values, units=("rspamd.service",))
