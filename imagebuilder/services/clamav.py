"""The virus scanner of the client, where the topology wants one. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.postfix import largest_message_bytes
from imagebuilder.topology import Role, Topology

UNPACKED = 4
"""How many times its own size a message may unpack to before the rest of it goes unread."""


@dataclass(frozen=True)
class ClamavValues(Values):
    """What overlays/clamav may refer to."""

    max_message_bytes: int
    """The largest message that Postfix takes."""
    max_scan_bytes: int
    """How much of it is read once it is unpacked."""
    mirror: str
    """URL of the mirror that has the signatures; empty: the project's own."""


def clamav_values(site: Site) -> ClamavValues:
    """Return the values of the scanner."""
    largest = largest_message_bytes(site.topology)
    return ClamavValues(
        max_message_bytes=largest,
        max_scan_bytes=UNPACKED * largest,
        mirror=site.topology.filter.virus_signatures or "",
    )


def wants_scanner(topology: Topology) -> bool:
    """Return whether mail is looked through for viruses."""
    return topology.filter.virus_scanner


SERVICE = Service(
    name="clamav",
    roles=(Role.CLIENT,),
    values=clamav_values,
    units=("virus-signatures.service", "virus-scanner.path"),
    wanted=wants_scanner,
)
