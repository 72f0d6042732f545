"""The web front: certificates, challenges, and how programs set themselves up. Pure."""

from dataclasses import dataclass
from uuid import NAMESPACE_DNS, uuid5

from imagebuilder.dns.records import mta_sts_policy
from imagebuilder.services.acme import CHALLENGE_PORT
from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.certificate import authority_roots, caddy_folder, public_names
from imagebuilder.topology import Role


@dataclass(frozen=True)
class CaddyValues(Values):
    """What overlays/caddy may refer to."""

    hostname: str
    """The mail host's name: what mail programs connect to."""
    names: tuple[str, ...]
    """Names that are answered, the mail host's first."""
    policy_names: tuple[str, ...]
    """Those under which the MTA-STS policy is."""
    domains: tuple[str, ...]
    """The mail domains, the principal one first."""
    policy: str
    """The MTA-STS policy, but for its last line end."""
    email: str
    """Whom the certificate authority may write to."""
    directory: str
    """URL of the ACME directory."""
    roots: str
    """File with the roots that vouch for the authority."""
    key_folder: str
    """Where Caddy keeps the mail host's key."""
    client_address: str
    """The client's address in the tunnel."""
    challenge_port: int
    """Where it answers the authority."""
    profile_uuid: str
    """Identity of the profile for Apple's programs: the same profile replaces the former one."""
    account_uuid: str
    """Identity of the account in it."""


def caddy_values(site: Site) -> CaddyValues:
    """Return the values of the web front."""
    topology = site.topology
    host = topology.proxy.hostname
    return CaddyValues(
        hostname=host,
        names=public_names(topology),
        policy_names=tuple(f"mta-sts.{domain.name}" for domain in topology.mail.domains),
        domains=tuple(domain.name for domain in topology.mail.domains),
        policy=mta_sts_policy(topology).rstrip("\n"),
        email=topology.admin.email,
        directory=topology.acme.directory,
        roots=authority_roots(topology),
        key_folder=caddy_folder(topology),
        client_address=str(topology.tunnel.client_address),
        challenge_port=CHALLENGE_PORT,
        profile_uuid=str(uuid5(NAMESPACE_DNS, f"profile.{host}")).upper(),
        account_uuid=str(uuid5(NAMESPACE_DNS, f"account.{host}")).upper(),
    )


SERVICE = Service(name="caddy", roles=(Role.PROXY,), values=caddy_values, units=("caddy.service",))
