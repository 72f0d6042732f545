"""Mail to the Internet, from the client alone. Pure."""

import json
from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role, Topology

MIB = 1024 * 1024

RELAY_PORT = 2526
"""Not 25: mail that goes out can never loop into what comes in."""

CREDENTIALS = "/run/credentials/haraka-out.service"
"""Where systemd puts the credentials of that unit (systemd.exec(5))."""

HEADERS_MIB = 1
"""Room for what the client adds to a message of the largest size: signature, results, trace."""


@dataclass(frozen=True)
class HarakaOutValues(Values):
    """What overlays/haraka-out may refer to."""

    hostname: str
    """The proxy's full name, as other servers hear it."""
    public_ipv4: str
    """The proxy's public IPv4 address."""
    listen: str
    """The proxy's addresses in the tunnel, each with its port, in Haraka's form."""
    client_addresses: tuple[str, ...]
    """The only ones that may relay, each as a network of its own."""
    max_message_bytes: int
    """Above the largest limit of any domain."""
    preferred_family: str
    """Haraka's word for which addresses of other servers to try first."""
    relays: str
    """JSON: which domains' mail goes through whose server, and which domains are ours."""


def relays_json(topology: Topology) -> str:
    """Return what the plugin relays has to know."""
    ways = [
        {
            "domains": list(relay.domains),
            "host": relay.host,
            "port": relay.port,
            "username": relay.username,
            "password": f"{CREDENTIALS}/relay.{relay.host}.password" if relay.username else None,
        }
        for relay in topology.mail.relays
    ]
    own = sorted(domain.name for domain in topology.mail.domains)
    return json.dumps({"own": own, "relays": ways}, indent=2)


def haraka_out_values(site: Site) -> HarakaOutValues:
    """Return the values of the outbound relay."""
    topology, tunnel = site.topology, site.topology.tunnel
    largest_mib = max(domain.max_message_mib for domain in topology.mail.domains)
    return HarakaOutValues(
        hostname=topology.proxy.hostname,
        public_ipv4=str(topology.proxy.ipv4.ip),
        listen=f"{tunnel.proxy_address}:{RELAY_PORT},[{tunnel.proxy_ipv6}]:{RELAY_PORT}",
        client_addresses=(f"{tunnel.client_address}/32", f"{tunnel.client_ipv6}/128"),
        max_message_bytes=(largest_mib + HEADERS_MIB) * MIB,
        preferred_family="default" if topology.proxy.ipv6 else "v4",
        relays=relays_json(topology),
    )


SERVICE = Service(name="haraka-out", roles=(Role.PROXY,), values=haraka_out_values, units=("haraka-out.service",))
