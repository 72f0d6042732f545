"""Mail from the client through haraka-out to the Internet."""

import asyncio
import signal
import smtplib
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler

from imagebuilder.run import run
from imagebuilder.topology import Role
from imagebuilder.vm.namespace import entered
from tests.accept.proxy_room import (
    PROXY_4,
    PROXY_6,
    ROOM,
    STRANGER_4,
    STRANGER_6,
    TUNNEL_CLIENT,
    TUNNEL_CLIENT_6,
    TUNNEL_PROXY,
    TUNNEL_PROXY_6,
    Room,
    told_in_a_room,
)

pytestmark = pytest.mark.accept

ALICE, EVE = "alice@example.org", "eve@stranger.example"
MAIL = (
    "Subject: hello\r\nFrom: <alice@example.org>\r\nDate: Sun, 22 Nov 2026 19:00:00 +0000\r\n"
    "Message-Id: <1@example.org>\r\n\r\nHi\r\n"
)


class Mailbox(MessageHandler):
    """What the stranger's server received."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []
        self.sessions: list[tuple[str, bool]] = []
        """Address of the sending host and whether TLS was used, one per message."""
        self.refused: set[str] = set()
        self.thinks_s = 0.0
        """Seconds between taking a message and saying so."""

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's name)
        self, server: object, session: object, envelope: object, address: str, options: object
    ) -> str:
        if address in self.refused:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)  # type: ignore[attr-defined]
        return "250 OK"

    async def handle_DATA(self, server: object, session: object, envelope: object) -> str:  # noqa: N802
        answer = await super().handle_DATA(server, session, envelope)  # type: ignore[arg-type]
        await asyncio.sleep(self.thinks_s)
        return str(answer)

    def prepare_message(self, session: object, envelope: object) -> Message:
        self.sessions.append((session.peer[0], session.ssl is not None))  # type: ignore[attr-defined]
        return super().prepare_message(session, envelope)  # type: ignore[arg-type]

    def handle_message(self, message: Message) -> None:
        self.messages.append(message)


@contextmanager
def strangers_server(room: Room) -> Iterator[Mailbox]:
    """Run a mail server for stranger.example, with TLS, on both of its addresses."""
    key, certificate = ROOM / "mx.key", ROOM / "mx.crt"
    if not key.exists():
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
        run([*make, "-subj", "/CN=mx.stranger.example", "-keyout", str(key), "-out", str(certificate)])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    box = Mailbox()
    controllers = []
    for address in (STRANGER_4, STRANGER_6):
        controller = Controller(box, hostname=address, port=25, tls_context=context, data_size_limit=None)
        start_in("internet", controller)
        controllers.append(controller)
    try:
        yield box
    finally:
        for controller in controllers:
            controller.stop()


def start_in(network: str, controller: Controller) -> None:
    """Start *controller* with its socket in *network*: it makes it in a thread of its own."""
    run_thread = controller._run

    def entered_run(ready: threading.Event) -> None:
        with entered(network):
            run_thread(ready)

    controller._run = entered_run  # type: ignore[assignment,method-assign]
    with entered(network):
        controller.start()


def queued(room: Room) -> list[Path]:
    """Return what haraka-out keeps."""
    return [path for path in (room.roots[Role.PROXY] / "var/lib/haraka-out/queue").iterdir() if path.is_file()]


def sent_by_the_client(room: Room, *recipients: str, mail: str = MAIL, sender: str = ALICE) -> None:
    """Hand *mail* over as the client does."""
    with room.smtp("", TUNNEL_PROXY, 2526, "client") as session:
        session.sendmail(sender, list(recipients), mail)


@told_in_a_room
def test_the_clients_mail_goes_to_the_mx_with_tls_and_without_a_trace_of_home(room: Room) -> None:
    room.start_haraka_out()

    with strangers_server(room) as box:
        sent_by_the_client(room, EVE)
        room.until(lambda: len(box.messages) == 1, "the message", room.daemons["haraka-out.service"])

    [message] = box.messages
    assert [name for name, _ in message.items() if name not in ("X-Peer", "X-MailFrom", "X-RcptTo")] == [
        "Subject", "From", "Date", "Message-Id",
    ]  # fmt: skip
    assert "10.0.0." not in message.as_string()
    assert box.sessions[0][1]
    room.until(lambda: queued(room) == [], "an empty queue")


@told_in_a_room
def test_nobody_but_the_client_may_relay(room: Room) -> None:
    room.start_haraka_out()

    for source, door in ((TUNNEL_PROXY, TUNNEL_PROXY), (TUNNEL_PROXY_6, TUNNEL_PROXY_6), ("", TUNNEL_PROXY)):
        with room.smtp(source, door, 2526, "proxy") as session:
            session.ehlo()
            session.mail(ALICE)
            code, text = session.rcpt(EVE)
        assert code == 550, text
    assert not room.answers("internet", PROXY_4, 2526)
    # A neighbour at the provider who sends to the tunnel's address directly.
    room.ip("internet", f"route add {TUNNEL_PROXY}/32 via {PROXY_4}")
    assert not room.answers("internet", TUNNEL_PROXY, 2526)
    room.ip("internet", f"address add {TUNNEL_CLIENT}/32 dev lo")
    assert not room.answers("internet", TUNNEL_PROXY, 2526, TUNNEL_CLIENT)
    room.ip(
        "internet", f"route add {TUNNEL_PROXY_6}/128 via {PROXY_6}", f"address add {TUNNEL_CLIENT_6}/128 dev lo nodad"
    )
    assert not room.answers("internet", TUNNEL_PROXY_6, 2526)
    assert not room.answers("internet", TUNNEL_PROXY_6, 2526, TUNNEL_CLIENT_6)


@told_in_a_room
def test_mail_waits_on_disk_and_survives_a_crash(room: Room) -> None:
    haraka = room.start_haraka_out()
    sent_by_the_client(room, EVE)
    room.until(lambda: "ECONNREFUSED" in haraka.log.read_text(), "a first try", haraka)
    haraka.kill()
    assert len(queued(room)) == 1

    with strangers_server(room) as box:
        haraka = room.start_haraka_out()
        # The next try would be a minute away. The first SIGHUP reads the file, the second sends it.
        for _ in range(2):
            time.sleep(1)
            haraka.process.send_signal(signal.SIGHUP)
        room.until(lambda: len(box.messages) == 1, "the message", haraka)

    room.until(lambda: queued(room) == [], "an empty queue")


@told_in_a_room
def test_a_refused_mail_comes_back_to_the_user_by_our_own_mx(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()
    room.start_haraka_out()

    with strangers_server(room) as box:
        box.refused.add(EVE)
        sent_by_the_client(room, EVE)
        [bounce] = room.delivered(1)

    assert bounce["Return-Path"] == "<>"
    assert bounce["Delivered-To"] == ALICE
    assert "no such user" in bounce.as_string()
    assert "client=mail.example.org[" in room.postfix_log()


@told_in_a_room
def test_a_large_message_goes_out_unchanged(room: Room) -> None:
    room.start_haraka_out()
    text = "\r\n".join(("." * (number % 3) + "z" * (number % 990)) for number in range(20000)) + "\r\n"

    with strangers_server(room) as box:
        sent_by_the_client(room, EVE, mail=f"{MAIL}{text}")
        room.until(lambda: len(box.messages) == 1, "the message", room.daemons["haraka-out.service"])

    assert str(box.messages[0].get_payload()).replace("\r\n", "\n") == f"Hi\n{text}".replace("\r\n", "\n")


@told_in_a_room
def test_kill_after_kill_loses_nothing_and_repeats_at_most_the_one_that_was_being_handed_over(room: Room) -> None:
    haraka = room.start_haraka_out()
    wanted = {f"{number}@example.org" for number in range(40)}
    kills = 0

    with strangers_server(room) as box:
        for number, identity in enumerate(sorted(wanted)):
            mail = MAIL.replace("1@example.org", identity)
            while True:  # as the client's Postfix does: what was not answered is sent again
                try:
                    sent_by_the_client(room, EVE, mail=mail)
                    break
                except (OSError, smtplib.SMTPException):
                    time.sleep(0.2)
            if number % 10 == 9:
                kills += 1
                haraka.kill()
                haraka = room.start_haraka_out()
        room.until(lambda: {str(one["Message-Id"]).strip("<>") for one in box.messages} == wanted, "all", haraka)
        room.until(lambda: queued(room) == [], "an empty queue", haraka)

    assert len(box.messages) - len(wanted) <= kills


@told_in_a_room
def test_a_kill_repeats_one_message_of_the_many_that_are_under_way(room: Room) -> None:
    haraka = room.start_haraka_out()
    wanted = {f"{number}@example.org" for number in range(10)}

    with strangers_server(room) as box:
        box.thinks_s = 1.0
        for identity in wanted:
            sent_by_the_client(room, EVE, mail=MAIL.replace("1@example.org", identity))
        room.until(lambda: len(box.messages) > 2, "some of them", haraka)
        assert len(queued(room)) > 5
        haraka.kill()
        box.thinks_s = 0.0
        haraka = room.start_haraka_out()
        room.until(lambda: {str(one["Message-Id"]).strip("<>") for one in box.messages} == wanted, "all", haraka)
        room.until(lambda: queued(room) == [], "an empty queue", haraka)

    assert len(box.messages) <= len(wanted) + 1


@told_in_a_room
def test_a_server_that_thinks_for_long_gets_the_message_once_and_holds_up_nobody(room: Room) -> None:
    settings = room.roots[Role.PROXY] / "etc/haraka-out/config/outbound.ini"
    changed = ROOM / "outbound.ini"
    changed.write_text(settings.read_text().replace("connect_timeout=30", "connect_timeout=5"))
    run(["mount", "--bind", str(changed), str(settings)])
    haraka = room.start_haraka_out()

    with strangers_server(room) as box:
        box.thinks_s = 12.0  # longer than is waited for a connection, and for one's turn
        sent_by_the_client(room, EVE)
        room.until(lambda: len(box.messages) == 1, "the message", haraka)
        box.thinks_s = 0.0
        sent_by_the_client(room, EVE, mail=MAIL.replace("1@example.org", "2@example.org"))
        room.until(lambda: len(box.messages) == 2, "the next one", haraka, within_s=15)
        room.until(lambda: queued(room) == [], "an empty queue", haraka, within_s=60)

    assert len(box.messages) == 2


@told_in_a_room
def test_each_recipient_is_done_with_by_himself(room: Room) -> None:
    haraka = room.start_haraka_out()

    with strangers_server(room) as box:
        box.refused.add(EVE)
        sent_by_the_client(room, EVE, "adam@stranger.example", "abel@stranger.example")
        room.until(lambda: len(box.messages) == 2, "the two who are there", haraka)

    assert sorted(str(one["X-RcptTo"]) for one in box.messages) == ["abel@stranger.example", "adam@stranger.example"]


@told_in_a_room
def test_a_full_disk_puts_the_client_off_and_what_it_has_is_sent_when_there_is_room_again(room: Room) -> None:
    state = room.roots[Role.PROXY] / "var/lib/haraka-out"
    state.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(state)])
    haraka = room.start_haraka_out()
    large = MAIL + "x" * 70 + "\r\n"
    large += ("y" * 70 + "\r\n") * 4000

    with strangers_server(room) as box:
        for _ in range(2):
            with pytest.raises(smtplib.SMTPDataError) as refused:
                sent_by_the_client(room, EVE, mail=large)
            assert 400 <= refused.value.smtp_code < 500, refused.value
        assert haraka.process.poll() is None
        run(["mount", "-o", "remount,size=10m", str(state)])
        sent_by_the_client(room, EVE, mail=large)
        room.until(lambda: len(box.messages) == 1, "the message", haraka)

    room.until(lambda: queued(room) == [], "an empty queue")
