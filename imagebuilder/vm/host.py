"""A host of the outside world, whose name is that of its network. Opens sockets and runs programs from there."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import environment
from imagebuilder.vm.addresses import Place
from imagebuilder.vm.namespace import entered


@dataclass(frozen=True)
class Host:
    """A host of the outside world; sockets and programs can be opened *from* it."""

    name: str
    ipv4: IPv4Address
    ipv6: IPv6Address | None = None

    @classmethod
    def at(cls, name: str, place: Place) -> "Host":
        """Return the host *name* with the addresses of *place*."""
        return cls(name, place.ipv4.ip, place.ipv6.ip if place.ipv6 else None)

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Put this thread on the host: sockets opened within leave from here, for good."""
        return entered(self.name)

    def connect(self, address: str | IPv4Address | IPv6Address, port: int, *, within_s: float = 30) -> socket.socket:
        """Return a TCP connection from this host to *address*."""
        with self.entered():
            return socket.create_connection((str(address), port), timeout=within_s)

    def listen(self, port: int) -> socket.socket:
        """Return a socket that listens on all addresses of this host, IPv4 and IPv6."""
        with self.entered():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 120, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of this machine's own programs on the host and return what it said."""
        with self.entered():
            return subprocess.run(
                list(argv), input=stdin, env=environment(env), capture_output=True, check=False, timeout=timeout_s
            )

    def call(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> int:
        """Run a program on the host with our own terminal and whole environment, and return its exit status."""
        with self.entered():
            try:
                return subprocess.run(list(argv), env={**os.environ, **(env or {})}, check=False).returncode
            except (FileNotFoundError, PermissionError) as error:
                raise ImagebuilderError(f"{argv[0]!r} can't be run: {error.strerror}") from error


def own_address(target: IPv4Address | IPv6Address) -> str:
    """Return the address that packets from this thread's network to *target* leave with; raise OSError without a way.

    A router on the way may give them another.
    """
    family = socket.AF_INET6 if target.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(target), 9))  # sends nothing
        return str(probe.getsockname()[0])


@dataclass(frozen=True)
class ThisMachine(Host):
    """Where we are, with the addresses that others see us at: sockets and programs need go nowhere."""

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Stay."""
        return contextlib.nullcontext()
