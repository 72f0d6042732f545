"""The client's firewall: invisible at home, open to the proxy's mail ports inside the tunnel. Pure."""

from dataclasses import dataclass

from imagebuilder.services.acme import CHALLENGE_PORT
from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.dovecot import IMAPS_PORT, SIEVE_PORT
from imagebuilder.services.postfix import RELAY_PORT, SUBMISSION_PORT
from imagebuilder.topology import Role

TCP_IPV4_HEADERS_BYTES = 40
"""What TCP and IPv4 take of each packet (RFC 9293 section 3.7.1)."""


@dataclass(frozen=True)
class FirewallClientValues(Values):
    """What overlays/firewall-client may refer to."""

    proxy_address: str
    """The proxy's address in the tunnel: the only one that may connect."""
    client_address: str
    """Our own address in the tunnel."""
    tunnel_network: str
    """The tunnel's network."""
    ports: str
    """TCP ports that the proxy reaches: SSH, SMTP, ManageSieve, certificates, submission, IMAPS."""
    mail_ports: str
    """TCP ports that nothing may go to by the line at home."""
    mss: int
    """Largest TCP segment inside the tunnel, in bytes."""


def port_set(*ports: int) -> str:
    """Return *ports* as the inside of an nftables set."""
    return ", ".join(str(port) for port in ports)


def firewall_client_values(site: Site) -> FirewallClientValues:
    """Return the values of the client's firewall."""
    tunnel = site.topology.tunnel
    return FirewallClientValues(
        proxy_address=str(tunnel.proxy_address),
        client_address=str(tunnel.client_address),
        tunnel_network=str(tunnel.network),
        ports=port_set(22, 25, SIEVE_PORT, CHALLENGE_PORT, SUBMISSION_PORT, IMAPS_PORT),
        mail_ports=port_set(25, 465, 587, RELAY_PORT),
        mss=tunnel.mtu - TCP_IPV4_HEADERS_BYTES,
    )


SERVICE = Service(
    name="firewall-client", roles=(Role.CLIENT,), values=firewall_client_values, units=("nftables.service",)
)
