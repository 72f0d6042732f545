"""How TLS went with other servers, told by the proxy to the client. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role

RESULTS_PORT = 2528


@dataclass(frozen=True)
class TlsResultsValues(Values):
    """What overlays/tls-results may refer to."""

    listen_address: str
    """The proxy's address in the tunnel."""
    listen_port: int
    """Its port there."""
    client_address: str
    """Who may ask."""


def tls_results_values(site: Site) -> TlsResultsValues:
    """Return the values of what the client asks."""
    tunnel = site.topology.tunnel
    return TlsResultsValues(
        listen_address=str(tunnel.proxy_address),
        listen_port=RESULTS_PORT,
        client_address=str(tunnel.client_address),
    )


SERVICE = Service(name="tls-results", roles=(Role.PROXY,), values=tls_results_values, units=("tls-results.socket",))
