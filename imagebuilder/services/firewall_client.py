"""The client's firewall: invisible at home, open to the proxy's mail ports inside the tunnel. Pure."""

from dataclasses import dataclass

from imagebuilder.services.acme import CHALLENGE_PORT
from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.dovecot import IMAPS_PORT, SIEVE_PORT
from imagebuilder.services.postfix import RELAY_PORT, SUBMISSION_PORT
from imagebuilder.topology import Role

HEADERS_BYTES = {4: 40, 6: 60}
"""What TCP and IP take of each packet, by the version of IP (RFC 9293 section 3.7.1)."""


@dataclass(frozen=True)
class FirewallClientValues(Values):
    """What overlays/firewall-client may refer to."""

    proxy_address: str
    """The proxy's address in the tunnel: the only one that may connect."""
    client_address: str
    """Our own address in the tunnel."""
    tunnel_network: str
    """The tunnel's network."""
    proxy_ipv6: str
    """The proxy's IPv6 address in the tunnel."""
    client_ipv6: str
    """Our own IPv6 address there."""
    tunnel_network_ipv6: str
    """The tunnel's IPv6 network."""
    ports: str
    """TCP ports that the proxy reaches: SSH, SMTP, ManageSieve, certificates, submission, IMAPS."""
    mail_ports: str
    """TCP ports that nothing may go to by the line at home."""
    mss_4: int
    """Largest TCP segment inside the tunnel by IPv4, in bytes."""
    mss_6: int
    """The same by IPv6."""


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
        proxy_ipv6=str(tunnel.proxy_ipv6),
        client_ipv6=str(tunnel.client_ipv6),
        tunnel_network_ipv6=str(tunnel.network_ipv6),
        ports=port_set(22, 25, SIEVE_PORT, CHALLENGE_PORT, SUBMISSION_PORT, IMAPS_PORT),
        mail_ports=port_set(25, 465, 587, RELAY_PORT),
        mss_4=tunnel.mtu - HEADERS_BYTES[4],
        mss_6=tunnel.mtu - HEADERS_BYTES[6],
    )


SERVICE = Service(
    name="firewall-client", roles=(Role.CLIENT,), values=firewall_client_values, units=("nftables.service",)
)
