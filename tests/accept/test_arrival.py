"""The mail ports of a host are asked as mail programs do: a server that takes mail, one that doesn't, and none."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from imagebuilder.run import run
from imagebuilder.shipping.arrival import mail_checks
from imagebuilder.topology import load_topology
from imagebuilder.vm.namespace import inside
from tests.accept.impostor import self_signed

pytestmark = pytest.mark.accept

TOPOLOGY = load_topology(Path(__file__).parents[1] / "topologies/reference.toml")


class Recipients:
    """Takes mail as it is told to."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.names: list[str] = []

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's name)
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.asked.append(address)
        self.names.append(str(session.host_name))
        return self.answer


@contextlib.contextmanager
def host(answer: str, certificate: Path) -> Iterator[Recipients]:
    """Run a host with the three ports on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    recipients = Recipients(answer)
    servers = [
        Controller(recipients, hostname="127.0.0.1", port=25),
        Controller(recipients, hostname="127.0.0.1", port=587, tls_context=context, server_hostname="mail.example.org"),
    ]
    imap = socket.create_server(("127.0.0.1", 993))

    def greet() -> None:
        with contextlib.suppress(OSError):
            connection = context.wrap_socket(imap.accept()[0], server_side=True)
            connection.sendall(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
            connection.recv(1)
            connection.close()

    thread = threading.Thread(target=greet)
    thread.start()
    for server in servers:
        server.start()
    try:
        yield recipients
    finally:
        for server in servers:
            server.stop()
        with contextlib.suppress(OSError):
            imap.shutdown(socket.SHUT_RDWR)
        imap.close()
        thread.join(30)


def seen(answer: str | None, certificate: Path) -> tuple[list[tuple[bool | None, str]], list[str], list[str]]:
    """Return what is seen of a host that gives *answer* to a recipient (None: of no host), and what it was told."""

    def work() -> tuple[list[tuple[bool | None, str]], list[str], list[str]]:
        run(["ip", "link", "set", "lo", "up"])
        if answer is None:
            return [(check.right, check.said) for check in mail_checks(TOPOLOGY, "127.0.0.1")], [], []
        with host(answer, certificate) as recipients:
            checks = mail_checks(TOPOLOGY, "127.0.0.1")
        return [(check.right, check.said) for check in checks], recipients.asked, recipients.names

    return inside(work)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    path.write_bytes(self_signed("mail.example.org"))
    return path


def test_a_host_that_takes_mail_is_right_on_every_port(certificate: Path) -> None:
    checks, asked, names = seen("250 fine", certificate)

    assert checks == [
        (True, "takes mail for alice@example.org, so the client answers through the tunnel"),
        (True, "greets as mail.example.org, with TLSv1.3"),
        (True, "greets, with TLSv1.3"),
    ]
    assert (asked, names) == (["alice@example.org"], ["[127.0.0.1]"])


def test_a_host_whose_client_is_away_is_told_with_its_answer(certificate: Path) -> None:
    (mail, *rest), _, _ = seen("451 4.4.1 the mail store can't be reached, try again later", certificate)

    assert mail == (
        False,
        "answers RCPT TO:<alice@example.org> with 451 4.4.1 the mail store can't be reached, try again later",
    )
    assert [right for right, _ in rest] == [True, True]


def test_a_host_that_is_not_there_is_wrong_on_every_port(certificate: Path) -> None:
    checks, _, _ = seen(None, certificate)

    assert [right for right, _ in checks] == [False, False, False]
    assert all("connection refused" in said for _, said in checks)
