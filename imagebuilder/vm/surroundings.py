"""What a test sees wherever it runs: in the bed, or against deployed hosts. Pure."""

import ssl
from collections.abc import Mapping
from typing import Protocol

from imagebuilder.build.image import Image
from imagebuilder.dns.records import Record
from imagebuilder.topology import PublicKeys, Role, Topology
from imagebuilder.vm.host import Host
from imagebuilder.vm.inside import Inside


class Outside(Protocol):
    """The Internet, with hosts that one can call from."""

    @property
    def topology(self) -> Topology:
        """What is called."""

    @property
    def public(self) -> PublicKeys:
        """Public keys that belong to the hosts called."""

    @property
    def stranger(self) -> Host:
        """Where somebody else is."""

    @property
    def user(self) -> Host:
        """Where the user abroad is."""

    @property
    def trust(self) -> ssl.SSLContext:
        """How people verify a server."""

    @property
    def records(self) -> tuple[Record, ...]:
        """Names that are, or have to be, published."""

    def lost_packets(self) -> int | None:
        """Return how many packets were ever lost on the way to a machine; None when nobody can tell."""


class Machines(Protocol):
    """Both machines of a topology, and what they were made from."""

    @property
    def machines(self) -> Mapping[Role, Inside]:
        """By role."""

    @property
    def images(self) -> Mapping[Role, Image]:
        """By role."""

    @property
    def proxy(self) -> Inside:
        """The one on the Internet."""

    @property
    def client(self) -> Inside:
        """The one at home."""
