"""Reports to other domains about TLS on the way to them (RFC 8460), written by the client, which signs them. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.postfix import LOCAL_PORT
from imagebuilder.services.tls_results import RESULTS_PORT
from imagebuilder.topology import Role


@dataclass(frozen=True)
class TlsReportValues(Values):
    """What overlays/tls-report may refer to."""

    proxy_address: str
    """Who knows how it went: the proxy's address in the tunnel."""
    results_port: int
    """Its port there."""
    submitter: str
    """Whom reports come from: the principal domain."""
    own_domains: tuple[str, ...]
    """Domains that need no report, as they are ours."""
    local_port: int
    """Where Postfix takes reports, on the loopback address."""


def tls_report_values(site: Site) -> TlsReportValues:
    """Return the values of what writes the reports."""
    topology = site.topology
    return TlsReportValues(
        proxy_address=str(topology.tunnel.proxy_address),
        results_port=RESULTS_PORT,
        submitter=topology.mail.domains[0].name,
        own_domains=tuple(domain.name for domain in topology.mail.domains),
        local_port=LOCAL_PORT,
    )


SERVICE = Service(name="tls-report", roles=(Role.CLIENT,), values=tls_report_values, units=("tls-report.timer",))
