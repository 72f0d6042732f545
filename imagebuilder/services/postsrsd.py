"""PostSRSd on the client: senders of mail that is forwarded become ours, so that their SPF holds. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.postfix import SRS_FORWARD_PORT, SRS_REVERSE_PORT
from imagebuilder.topology import Role


@dataclass(frozen=True)
class PostsrsdValues(Values):
    """What overlays/postsrsd may refer to."""

    forward_port: int
    """Where Postfix asks for the rewritten form of a sender."""
    reverse_port: int
    """Where Postfix asks what a rewritten sender was."""
    domain: str
    """The domain of rewritten senders."""
    domains: tuple[str, ...]
    """Domains whose senders stay as they are: ours."""


def postsrsd_values(site: Site) -> PostsrsdValues:
    """Return the values of PostSRSd."""
    domains = [domain.name for domain in site.topology.mail.domains]
    return PostsrsdValues(
        forward_port=SRS_FORWARD_PORT,
        reverse_port=SRS_REVERSE_PORT,
        domain=domains[0],
        domains=tuple(sorted(domains)),
    )


SERVICE = Service(name="postsrsd", roles=(Role.CLIENT,), values=postsrsd_values, units=("postsrsd.service",))
