"""The mail domains of others, and a line to a server that says what the test wants."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.topology import load_topology
from imagebuilder.vm.names import foreign_domains, foreign_records
from imagebuilder.vm.wire import Wire

TOPOLOGIES = Path(__file__).parents[1] / "topologies"


def test_domains_that_mail_is_passed_on_to_are_the_strangers() -> None:
    assert foreign_domains(load_topology(TOPOLOGIES / "small.toml")) == ()
    assert foreign_domains(load_topology(TOPOLOGIES / "rich.toml")) == ("elsewhere.example",)

    records = foreign_records(load_topology(TOPOLOGIES / "rich.toml"), "mx.stranger.example.")

    assert {record.owner for record in records if record.type == "MX"} == {
        "elsewhere.example.",
        "stranger.example.",
        "strict.example.",
        "sts.example.",
        "wary.example.",
    }
    assert {record.text for record in records if record.owner == "_dmarc.strict.example."} == {"v=DMARC1; p=reject"}


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_replies_of_several_lines_are_one(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(b"220 mx.example ready\r\n250-mx.example\r\n250-PIPELINING\r\n250 SIZE 10\r\n")
    line = Wire(ours)

    reply = line.order("EHLO me")

    assert line.greeting.text == "mx.example ready"
    assert (reply.code, reply.lines) == (250, ("mx.example", "PIPELINING", "SIZE 10"))
    assert theirs.recv(100) == b"EHLO me\r\n"


def test_a_server_that_hangs_up_is_no_answer(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(b"220 ready\r\n250-half an")
    theirs.shutdown(socket.SHUT_WR)
    line = Wire(ours)

    with pytest.raises(EOFError):
        line.reply()


def test_a_message_is_begun_only_when_the_server_wants_it(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends

    def server() -> None:
        theirs.sendall(b"220 ready\r\n")
        for answer in (b"250 me\r\n", b"250 ok\r\n", b"550 not you\r\n"):
            theirs.recv(100)
            theirs.sendall(answer)

    threading.Thread(target=server, daemon=True).start()

    with pytest.raises(AssertionError, match=r"RCPT TO:<a@b>: 550 not you"):
        Wire(ours).begin("x@y", "a@b", "mx.y")
