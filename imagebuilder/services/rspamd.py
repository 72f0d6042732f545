"""Rspamd on the client: which key signs for which domain. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.postfix import LOCAL_PORT, largest_message_bytes
from imagebuilder.topology import Role

CREDENTIALS = "/run/credentials/rspamd.service"
"""Where systemd puts the credentials of that unit (systemd.exec(5))."""

GREYLIST_SHARE = 2, 3
"""Of the score of Junk: what looks doubtful, and isn't yet filed there."""


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
    principal_domain: str
    """Domain that reports to others come from."""
    hostname: str
    """The name shown to the outside: the proxy's."""
    local_port: int
    """Where Postfix takes them, on the loopback address."""
    reject_score: int
    """From here on mail is refused."""
    junk_score: int
    """From here on it is filed under Junk."""
    greylist_score: int
    """From here on an unknown sender is put off once; 0: never."""
    user_hourly: int
    """Most messages of a user in an hour."""
    source_hourly: int
    """Most messages of one address outside in an hour."""
    virus_scanner: bool
    """Whether ClamAV is asked about every message."""
    max_message_bytes: int
    """The largest message that comes."""


def rspamd_values(site: Site) -> RspamdValues:
    """Return the values of Rspamd."""
    wanted = site.topology.filter
    domains = sorted((domain.name, domain.dkim_selector) for domain in site.topology.mail.domains)
    return RspamdValues(
        keys=tuple(DkimKey(name, selector, f"{CREDENTIALS}/dkim.{name}.{selector}.key") for name, selector in domains),
        principal_domain=site.topology.mail.domains[0].name,
        hostname=site.topology.proxy.hostname,
        local_port=LOCAL_PORT,
        reject_score=wanted.reject_score,
        junk_score=wanted.junk_score,
        greylist_score=max(1, wanted.junk_score * GREYLIST_SHARE[0] // GREYLIST_SHARE[1]) if wanted.greylisting else 0,
        user_hourly=wanted.user_messages_per_hour,
        source_hourly=wanted.source_messages_per_hour,
        virus_scanner=wanted.virus_scanner,
        max_message_bytes=largest_message_bytes(site.topology),
    )


SERVICE = Service(
    name="rspamd", roles=(Role.CLIENT,), values=rspamd_values, units=("rspamd.service", "dmarc-report.timer")
)
