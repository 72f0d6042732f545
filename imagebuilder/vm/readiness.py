"""When mail flows: seen from outside, on the ports that people use. Opens sockets from the outside hosts."""

import socket
import ssl
from collections.abc import Callable

from imagebuilder.services.certificate import public_names
from imagebuilder.topology import Topology
from imagebuilder.vm.host import Host
from imagebuilder.vm.people import IMAPS, SMTP, SUBMISSION
from imagebuilder.vm.surroundings import Outside
from imagebuilder.vm.waiting import HopelessError, Patience, Seen, wait_for
from imagebuilder.vm.web import HTTPS
from imagebuilder.vm.world import World, unverified

READY_S = 40.0
"""Seconds from a settled boot until mail must flow."""
CERTIFIED_S = 60.0
"""Seconds from then until each name must show a certificate of the authority."""


def wait_until_mail_flows(world: World, patience: Patience, missing: Callable[[], str] = str) -> None:
    """Return when SMTP, submission and IMAPS greet from outside, the latter two from the client behind the tunnel.

    *missing* says why that can't come, while it can't.
    """
    proxy = world.topology.proxy.ipv4.ip
    greetings: tuple[tuple[str, Callable[[], bytes], bytes], ...] = (
        ("the greeting of SMTP", lambda: greeting(world.stranger, str(proxy), SMTP), b"220 "),
        ("the greeting of submission", lambda: greeting(world.user, str(proxy), SUBMISSION), b"220 "),
        ("the greeting of IMAPS", lambda: greeting(world.user, str(proxy), IMAPS, secure=True), b"* OK"),
        ("the mail store behind the proxy", lambda: _recipient_reply(world), b"250"),
    )
    for what, ask, expected in greetings:

        def look(what: str = what, ask: Callable[[], bytes] = ask, expected: bytes = expected) -> Seen:
            if why := missing():
                raise HopelessError(f"{what} will not come: {why}")
            try:
                said = ask()
            except OSError as error:
                return Seen(False, f"{type(error).__name__}: {error}")
            return Seen(said.startswith(expected), repr(said[:120]))

        wait_for(what, look, within_s=patience.seconds(READY_S), every_s=patience.seconds(0.15))


def wait_until_certified(world: World, patience: Patience, missing: Callable[[], str] = str) -> None:
    """Return when every name and port that speaks TLS shows a certificate that people of the world accept.

    *missing* says why that can't come, while it can't.
    """
    host = world.topology.proxy.hostname
    looks: list[tuple[str, Callable[[], ssl.SSLSocket]]] = [
        (f"the certificate of {name}", lambda name=name: secured(world, name, HTTPS))  # type: ignore[misc]
        for name in public_names(world.topology)
    ]
    looks.append(("the certificate of SMTP", lambda: secured(world, host, SMTP, first=STARTTLS)))
    if world.topology.acme.dns_provider is None:
        looks += [
            ("the certificate of submission", lambda: secured(world, host, SUBMISSION, first=STARTTLS)),
            ("the certificate of IMAPS", lambda: secured(world, host, IMAPS)),
        ]
    for what, shake in looks:

        def look(what: str = what, shake: Callable[[], ssl.SSLSocket] = shake) -> Seen:
            if why := missing():
                raise HopelessError(f"{what} will not come: {why}")
            try:
                shake().close()
            except OSError as error:
                return Seen(False, f"{type(error).__name__}: {error}")
            return Seen(True, "accepted")

        wait_for(what, look, within_s=patience.seconds(CERTIFIED_S), every_s=patience.seconds(0.5))


STARTTLS = (b"EHLO roaming.user.example\r\n", b"STARTTLS\r\n")


def secured(
    world: Outside, name: str, port: int, *, first: tuple[bytes, ...] = (), within_s: float = 20
) -> ssl.SSLSocket:
    """Return a TLS connection from the user abroad to *name* on *port*, after saying *first* in the clear.

    Raises OSError, of which ssl.SSLError is one, when there is none or the certificate is not accepted.
    """
    plain = world.user.connect(name, port, within_s=within_s)
    try:
        for order in first:
            _answer(plain)
            plain.sendall(order)
        if first:
            _answer(plain)
        return world.trust.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


def _answer(connection: socket.socket) -> None:
    """Read one whole answer of an SMTP server, and no byte more."""
    line = b""
    while not (line.endswith(b"\n") and line[3:4] == b" "):
        if line.endswith(b"\n"):
            line = b""
        if not (byte := connection.recv(1)):
            raise ConnectionResetError("the connection was closed")
        line += byte


def greeting(host: Host, address: str, port: int, *, secure: bool = False, within_s: float = 20) -> bytes:
    """Return the first line that *address* says on *port* to *host*; raises OSError when it says nothing."""
    with host.connect(address, port, within_s=within_s) as plain:
        connection = unverified().wrap_socket(plain) if secure else plain
        with connection:
            return connection.recv(512)


def _recipient_reply(world: World) -> bytes:
    """Return what the proxy answers to the first mailbox as a recipient."""
    recipient = receiving_mailbox(world.topology)
    with world.stranger.connect(world.topology.proxy.ipv4.ip, SMTP, within_s=20) as connection:
        lines = connection.makefile("rb")
        answer = lines.readline()
        for order in ("EHLO mx.stranger.example", "MAIL FROM:<>", f"RCPT TO:<{recipient}>"):
            connection.sendall(f"{order}\r\n".encode())
            while (answer := lines.readline())[3:4] == b"-":
                pass
        connection.sendall(b"QUIT\r\n")
        return answer


def receiving_mailbox(topology: Topology) -> str:
    """Return the address of the first mailbox that mail can be sent to. Pure."""
    return next(mailbox.address for mailbox in topology.mail.mailboxes if not mailbox.send_only)
