"""Who guesses passwords is named to the proxy, by the address that he really has."""

import contextlib
import imaplib
import json
import smtplib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm.namespace import entered
from tests.accept.client_letters import USER
from tests.accept.client_room import PASSWORDS, PROXY, ClientRoom
from tests.accept.client_stories import Stories

pytestmark = pytest.mark.accept

story = Stories(running=True)
ALICE, BOB, ROBOT = PASSWORDS


@pytest.fixture(scope="module")
def outcomes(tools: Tools, package_tree: Callable[[Role], Path]) -> dict[str, str] | None:
    return story.outcomes(tools, package_tree(Role.CLIENT))


@contextlib.contextmanager
def door() -> Iterator[list[bytes]]:
    """Play the proxy's part: yield what the client says there, a line each."""
    with entered("proxy"):
        listening = socket.create_server((PROXY, 2527))
    heard: list[bytes] = []

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, connection.makefile("rb") as words:
                    heard.append(words.read())

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield heard
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def guess(room: ClientRoom, *passwords: str, user: str = ALICE) -> None:
    """Try *passwords* by submission and by IMAP in turn."""
    for number, password in enumerate(passwords):
        if number % 2:
            with pytest.raises(imaplib.IMAP4.error), room.imap(user, password):
                pass
        else:
            with pytest.raises(smtplib.SMTPAuthenticationError), room.submission(user, password):
                pass


def report(room: ClientRoom, login: dict[str, object]) -> None:
    """Report *login* as Dovecot does; a real one waits long after each mistake."""
    body = json.dumps(login).encode()
    head = f"POST /?command=report HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with room.connect("client", "127.0.0.1", 10024) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


@story
def test_an_ipv6_guesser_is_named_by_his_network_and_nonsense_is_survived(room: ClientRoom) -> None:
    with door() as heard:
        for number in range(4):
            for remote in (f"2001:db8:5::{number + 1}", "mail.example.org", "198.51.100.1 }", ""):
                report(room, {"login": BOB, "pwhash": f"{number:02x}", "remote": remote, "success": False})
            report(room, {"login": BOB, "pwhash": f"{number:02x}", "remote": "198.51.100.9", "success": True})
        room.until(lambda: heard != [], "a word to the proxy", within_s=20)

    assert heard == [b"2001:db8:5::\n"]


@story
def test_one_forgotten_password_again_and_again_is_no_guessing(room: ClientRoom) -> None:
    with door() as heard:
        guess(room, *["the old one"] * 6)
        with room.submission(ALICE, PASSWORDS[ALICE]):
            pass

    assert heard == []


@story
def test_a_guesser_by_submission_and_imap_is_named_once_by_his_real_address(room: ClientRoom) -> None:
    with door() as heard:
        guess(room, "first", "second", "third", "fourth")
        room.until(lambda: heard != [], "a word to the proxy", within_s=20)

    assert heard == [f"{USER}\n".encode()]


@story
def test_logins_go_on_while_the_proxy_can_not_be_told(room: ClientRoom) -> None:
    for number in range(4):
        report(room, {"login": ALICE, "pwhash": f"{number:02x}", "remote": "2001:db8:5::25", "success": False})
    room.until(lambda: room.said("ban-report", "can't be told"), "a complaint", within_s=20)

    with room.submission(ALICE, PASSWORDS[ALICE]), room.imap(BOB):
        pass
