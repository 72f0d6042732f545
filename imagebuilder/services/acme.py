"""How the client gets its own certificate: lego, its challenge passed on by the proxy. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.certificate import authority_roots
from imagebuilder.topology import Role

CHALLENGE_PORT = 8402
"""Where the client answers the authority, on its tunnel address."""


@dataclass(frozen=True)
class AcmeValues(Values):
    """What overlays/acme may refer to."""

    hostname: str
    """The name in the certificate: the one that users' programs are given."""
    directory: str
    """URL of the ACME directory."""
    email: str
    """Whom the authority may write to."""
    roots: str
    """File with the roots that vouch for the authority."""
    challenge: str
    """lego's options for the challenge."""


def challenge_options(site: Site) -> str:
    """Return by which challenge lego proves that the name is ours."""
    acme = site.topology.acme
    if acme.dns_provider is not None:
        return f"--dns {acme.dns_provider} --dns.resolvers 127.0.0.1:53"
    return f"--http --http.port {site.topology.tunnel.client_address}:{CHALLENGE_PORT}"


def acme_values(site: Site) -> AcmeValues:
    """Return the values of lego."""
    topology = site.topology
    return AcmeValues(
        hostname=topology.proxy.hostname,
        directory=topology.acme.directory,
        email=topology.admin.email,
        roots=authority_roots(topology),
        challenge=challenge_options(site),
    )


SERVICE = Service(name="acme", roles=(Role.CLIENT,), values=acme_values, units=("acme.service",))
