"""Who guesses passwords, counted at the client and told to the proxy. Pure."""

from dataclasses import dataclass

from imagebuilder.services.ban_door import DOOR_PORT
from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.dovecot import POLICY_PORT
from imagebuilder.topology import Role


@dataclass(frozen=True)
class BanReportValues(Values):
    """What overlays/ban-report may refer to."""

    policy_port: int
    """Where Dovecot reports logins, on the loopback address."""
    door_address: str
    """Whom to tell: the proxy's address in the tunnel."""
    door_port: int
    """Its port there."""
    failures: int
    """Different wrong passwords that make a guesser."""
    window_s: int
    """Seconds within which they count."""


def ban_report_values(site: Site) -> BanReportValues:
    """Return the values of the counter."""
    bans = site.topology.bans
    return BanReportValues(
        policy_port=POLICY_PORT,
        door_address=str(site.topology.tunnel.proxy_address),
        door_port=DOOR_PORT,
        failures=bans.wrong_passwords,
        window_s=bans.within_minutes * 60,
    )


SERVICE = Service(name="ban-report", roles=(Role.CLIENT,), values=ban_report_values, units=("ban-report.service",))
