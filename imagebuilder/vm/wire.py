"""SMTP line by line, for what no decent library would send. Opens sockets from the outside hosts."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from imagebuilder.vm.host import Host


@dataclass(frozen=True)
class Reply:
    """What a server said to one command."""

    code: int
    lines: tuple[str, ...]
    """Without the code."""

    @property
    def text(self) -> str:
        """All of it in one line."""
        return " ".join(self.lines)


class Wire:
    """A connection to an SMTP server, past its greeting."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self.greeting = self.reply()

    def send(self, content: bytes) -> None:
        """Send *content* as it is."""
        self._connection.sendall(content)

    def reply(self) -> Reply:
        """Return the next reply; raise EOFError when the server has closed the connection."""
        lines: list[str] = []
        while True:
            line = self._lines.readline().decode(errors="replace")
            if not line:
                raise EOFError(f"the server closed the connection after {lines}")
            lines.append(line[4:].rstrip("\r\n"))
            if line[3:4] != "-":
                return Reply(int(line[:3]), tuple(lines))

    def order(self, command: str) -> Reply:
        """Send one *command* and return the reply."""
        self.send(f"{command}\r\n".encode())
        return self.reply()

    def begin(self, sender: str, recipient: str, helo: str) -> None:
        """Go on to the content of a message; raise AssertionError when the server does not want one."""
        for command, code in (
            (f"EHLO {helo}", 250),
            (f"MAIL FROM:<{sender}>", 250),
            (f"RCPT TO:<{recipient}>", 250),
            ("DATA", 354),
        ):
            reply = self.order(command)
            assert reply.code == code, f"{command}: {reply.code} {reply.text}"

    def encrypt(self, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
        """Shake hands, after the server agreed to it, and go on inside TLS."""
        self._lines.close()
        inside = context.wrap_socket(self._connection, server_hostname=name)
        self._connection, self._lines = inside, inside.makefile("rb")
        return inside

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._connection.close()


@contextmanager
def wire(host: Host, address: IPv4Address | IPv6Address, port: int, *, within_s: float) -> Iterator[Wire]:
    """Yield a connection of *host* to *address*; each answer may take *within_s*."""
    with host.connect(address, port, within_s=within_s) as connection:
        line = Wire(connection)
        try:
            yield line
        finally:
            line.close()
