"""Submission and IMAP, passed through the tunnel with the user's address. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role

SUBMISSION_PORT = 587
IMAPS_PORT = 993

BEHIND_PROXY = 10000
"""Added to a port: where the client listens for the same, told the user's address (PROXY protocol)."""


@dataclass(frozen=True)
class HaproxyValues(Values):
    """What overlays/haproxy may refer to."""

    client_address: str
    """The client's address in the tunnel."""
    submission_port: int
    """Where users' programs send, from the Internet."""
    imaps_port: int
    """Where users' programs read, from the Internet."""
    client_submission_port: int
    """Where the client listens for the former."""
    client_imaps_port: int
    """Where the client listens for the latter."""


def haproxy_values(site: Site) -> HaproxyValues:
    """Return the values of the pass-through."""
    return HaproxyValues(
        client_address=str(site.topology.tunnel.client_address),
        submission_port=SUBMISSION_PORT,
        imaps_port=IMAPS_PORT,
        client_submission_port=SUBMISSION_PORT + BEHIND_PROXY,
        client_imaps_port=IMAPS_PORT + BEHIND_PROXY,
    )


SERVICE = Service(name="haproxy", roles=(Role.PROXY,), values=haproxy_values, units=("haproxy.service",))
