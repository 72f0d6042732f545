"""Mail from strangers through haraka-in to the client's Postfix."""

import signal
import smtplib
import ssl
import time
from contextlib import suppress
from email.message import Message
from itertools import zip_longest

import pytest

from imagebuilder.run import run
from imagebuilder.topology import Role
from tests.accept.proxy_room import (
    MX,
    NAMELESS_4,
    PROXY_4,
    PROXY_6,
    STRANGER_4,
    STRANGER_6,
    TUNNEL_CLIENT,
    Room,
    told_in_a_room,
)

pytestmark = pytest.mark.accept

EVE = "eve@stranger.example"
ALICE, BOB, NOBODY = "alice@example.org", "bob@example.org", "nobody@example.org"
MAIL = "Subject: hello\r\nFrom: <eve@stranger.example>\r\n\r\nIs this on?\r\n"
MIB = 1024 * 1024


def large_mail(size: int) -> str:
    """Return a message of about *size* bytes, with lines of many lengths, dots in front of some, one too long."""
    lines, length = ["Subject: large", "From: <eve@stranger.example>", ""], 0
    while length < size:
        number = len(lines)
        line = ("." * (number % 4) + "x" * (number * 37 % 999))[:998] if number != 5 else "y" * 5000
        lines.append(line)
        length += len(line) + 2
    return "\r\n".join(lines) + "\r\n"


def first_difference(message: Message, sent: str) -> tuple[int, str, str] | None:
    """Return where and how the body of *message* differs from that of *sent*, line ends aside."""
    expected = sent.partition("\r\n\r\n")[2].rstrip("\r\n").split("\r\n")
    found = str(message.get_payload()).rstrip("\n").split("\n")
    for number, (one, other) in enumerate(zip_longest(expected, found, fillvalue="(end)")):
        if one != other:
            return number, one[:2000], other[:2000]
    return None


def begun(session: smtplib.SMTP, *recipients: str) -> list[tuple[int, bytes]]:
    """Begin a message and return the replies to its *recipients*."""
    session.ehlo()
    assert session.mail(EVE)[0] == 250
    return [session.rcpt(recipient) for recipient in recipients]


@told_in_a_room
def test_a_strangers_mail_is_delivered_and_the_client_knows_who_sent_it(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp(STRANGER_4) as session:
        session.sendmail(EVE, [ALICE], MAIL)
    with room.smtp(STRANGER_6, PROXY_6) as session:
        session.sendmail(EVE, [ALICE], MAIL)

    for message in room.delivered(2):
        assert message.get_payload() == "Is this on?\n"
        assert "by mail.example.org (Haraka) with ESMTP" in str(message.get_all("Received"))
    assert f"client={MX}[{STRANGER_4}]" in room.postfix_log()
    assert f"client={MX}[{STRANGER_6}]" in room.postfix_log()


@told_in_a_room
def test_a_name_that_has_another_address_is_not_believed(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp(NAMELESS_4) as session:
        session.sendmail(EVE, [ALICE], MAIL)

    room.delivered(1)
    assert f"client=unknown[{NAMELESS_4}]" in room.postfix_log()


@told_in_a_room
def test_an_unknown_recipient_is_refused_at_rcpt_and_the_known_ones_get_the_mail(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp() as session:
        known, unknown, other = begun(session, ALICE, NOBODY, BOB)
        assert known[0] == other[0] == 250
        assert unknown[0] == 550
        assert b"5.1.1 <nobody@example.org>: Recipient address rejected: User unknown" in unknown[1]
        assert session.data(MAIL)[0] == 250

    assert {message["Delivered-To"] for message in room.delivered(2)} == {ALICE, BOB}


@told_in_a_room
def test_a_foreign_domain_is_refused_and_the_client_is_not_troubled(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()
    before = room.postfix_log().count("connect from")

    with room.smtp() as session:
        [(code, text)] = begun(session, "someone@elsewhere.example")

    assert code == 550, text
    assert room.postfix_log().count("connect from") == before


@told_in_a_room
def test_many_mails_in_one_session_arrive_and_a_reset_one_does_not(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp() as session:
        for number in range(3):
            session.sendmail(EVE, [ALICE], f"Subject: {number}\r\n\r\nx\r\n")
            begun(session, ALICE)
            assert session.rset()[0] == 250
        session.sendmail("", [ALICE], "Subject: bounce\r\n\r\nx\r\n")

    assert [message["Subject"] for message in room.delivered(4)] == ["0", "1", "2", "bounce"]
    assert room.inbox()[3]["Return-Path"] == "<>"


@told_in_a_room
def test_a_pipelining_sender_gets_each_answer_in_order(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp() as session:
        session.ehlo()
        session.send(
            f"MAIL FROM:<{EVE}>\r\nRCPT TO:<{ALICE}>\r\nRCPT TO:<{NOBODY}>\r\nRCPT TO:<{BOB}>\r\nDATA\r\n"
        )  # fmt: skip
        codes = [session.getreply()[0] for _ in range(5)]
        session.send(MAIL + ".\r\n")
        last = session.getreply()[0]

    assert codes == [250, 250, 550, 250, 354]
    assert last == 250
    room.delivered(2)


@told_in_a_room
def test_a_large_message_arrives_unchanged_and_nothing_of_it_stays(room: Room) -> None:
    room.start_postfix()
    haraka = room.start_haraka_in()
    sent = large_mail(35 * MIB)  # what a file of 25 MiB is when it travels

    with room.smtp() as session:
        session.ehlo()
        session.mail(EVE, [f"SIZE={len(sent)}", "BODY=8BITMIME"])
        session.rcpt(ALICE)
        assert session.data(sent)[0] == 250

    [message] = room.delivered(1)
    assert first_difference(message, sent) is None
    assert haraka.resident_mib() < 220
    root = room.roots[Role.PROXY]
    left = [path for path in (root / "var").rglob("*") if path.is_file() and "certificate" not in path.parts]
    assert left == []
    assert list((root / "run/haraka-in/queue").iterdir()) == []


@told_in_a_room
def test_a_message_above_the_limit_is_refused_before_it_is_sent(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp() as session:
        session.ehlo()
        assert session.esmtp_features["size"] == str(36 * MIB)
        code, _ = session.mail(EVE, [f"SIZE={36 * MIB + 1}"])

    assert code in (550, 552)


@told_in_a_room
def test_starttls_is_offered_and_the_sender_is_still_known(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()
    context = ssl.create_default_context(cafile=str(room.roots[Role.PROXY] / "var/lib/certificate/mail.pem"))

    with room.smtp() as session:
        session._host = "mail.example.org"  # type: ignore[attr-defined]  # what the certificate has to say
        assert session.starttls(context=context)[0] == 220
        session.sendmail(EVE, [ALICE], MAIL)

    [message] = room.delivered(1)
    assert "with ESMTPS" in str(message.get_all("Received"))
    assert f"client={MX}[{STRANGER_4}]" in room.postfix_log()


@told_in_a_room
def test_the_greeting_tells_no_version(room: Room) -> None:
    room.start_haraka_in()

    sock = room.connect("internet", PROXY_4, 25)

    assert sock.recv(200) == b"220 mail.example.org ESMTP ready\r\n"


@told_in_a_room
def test_a_strange_helo_neither_stops_the_mail_nor_tells_the_client_lies(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()
    strange = ("a+b=c", "x ADDR=127.0.0.1", "[UNAVAILABLE]", "\u00fcber.example", "y" * 400)

    for number, name in enumerate(strange, 1):
        with room.smtp() as session:
            session.command_encoding = "utf-8"
            session.putcmd(f"EHLO {name}")
            assert session.getreply()[0] == 250
            session.mail(EVE)
            code, text = session.rcpt(ALICE)
            assert code == 250, (name, text)
            session.data(MAIL)
        room.delivered(number)

    assert room.postfix_log().count(f"client={MX}[{STRANGER_4}]") == len(strange)


@told_in_a_room
def test_plain_helo_is_enough(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp() as session:
        session.helo()
        session.mail(EVE)
        assert session.rcpt(ALICE)[0] == 250
        assert session.data(MAIL)[0] == 250

    [message] = room.delivered(1)
    assert "with SMTP id" in str(message.get_all("Received"))
    assert "proto=SMTP" not in room.postfix_log()


@told_in_a_room
def test_postmaster_needs_no_domain(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp() as session:
        [(code, text)] = begun(session, "Postmaster")
        assert code == 250, text
        session.data(MAIL)

    assert room.delivered(1)[0]["X-Original-To"] == "postmaster@example.org"


@told_in_a_room
def test_mail_from_inside_is_never_announced_as_a_strangers(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    for address in ("127.0.0.1", "::1"):
        with room.smtp("", address, network="proxy") as session:
            [(code, text)] = begun(session, ALICE)
        assert code == 550
        assert b"5.7.1" in text
    # Our own bounces come from our public address.
    with room.smtp("", PROXY_4, network="proxy") as session:
        session.sendmail("", [ALICE], MAIL)
    room.delivered(1)


@told_in_a_room
def test_without_xclient_mail_is_deferred(room: Room) -> None:
    room.start_postfix("smtpd_authorized_xclient_hosts =")
    room.start_haraka_in()

    with room.smtp() as session:
        replies = begun(session, ALICE, BOB)

    assert [code for code, _ in replies] == [450, 450]
    assert b"4.4.1 The mailbox server is unreachable" in replies[0][1]
    assert "no XCLIENT offered" in room.daemons["haraka-in.service"].log.read_text()


@told_in_a_room
def test_with_the_client_off_the_answer_is_a_quick_4xx_and_the_next_try_is_delivered_once(room: Room) -> None:
    room.start_haraka_in()

    with room.smtp() as session:
        started = time.monotonic()
        replies = begun(session, ALICE, BOB)
        assert time.monotonic() - started < 1
        assert [code for code, _ in replies] == [450, 450]
        assert session.docmd("DATA")[0] == 503

        room.start_postfix()
        session.rset()
        session.sendmail(EVE, [ALICE], MAIL)

    time.sleep(1)
    assert len(room.delivered(1)) == 1


@told_in_a_room
def test_with_the_tunnel_silent_the_answer_is_a_4xx_within_two_seconds(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()
    room.ip("client", "link set wg0 down")

    with room.smtp() as session:
        started = time.monotonic()
        replies = begun(session, ALICE, BOB, NOBODY)
        took = time.monotonic() - started

    assert [code for code, _ in replies] == [450, 450, 450]
    assert took < 2


@told_in_a_room
def test_a_client_that_takes_the_connection_and_says_nothing_is_given_up(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()
    room.signal_all("master", signal.SIGSTOP)
    room.signal_all("smtpd", signal.SIGSTOP)

    with room.smtp() as session:
        started = time.monotonic()
        [(code, _)] = begun(session, ALICE)
        took = time.monotonic() - started

    assert code == 450
    assert took < 12


@told_in_a_room
def test_a_refused_xclient_is_a_temporary_failure(room: Room) -> None:
    room.start_haraka_in()
    server = room.listen("client", TUNNEL_CLIENT, 25)

    with room.smtp() as session:
        session.ehlo()
        session.mail(EVE)
        session.putcmd(f"RCPT TO:<{ALICE}>")
        upstream, _ = server.accept()
        with upstream, upstream.makefile("rw", newline="") as lines:
            said = []
            for answer in ("220 x ESMTP", "250-x\r\n250 XCLIENT NAME ADDR", "501 5.5.4 Bad ADDR syntax"):
                lines.write(f"{answer}\r\n")
                lines.flush()
                said.append(lines.readline())
        code, text = session.getreply()

    assert said[1] == f"XCLIENT NAME={MX} ADDR={STRANGER_4}\r\n"
    assert code == 450
    assert b"unreachable" in text


@told_in_a_room
def test_a_client_that_dies_in_mid_message_makes_the_sender_try_again(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp() as session:
        begun(session, ALICE)
        # Nobody takes the message off smtpd's hands: the tunnel fills up, and then smtpd is gone.
        room.signal_all("cleanup", signal.SIGSTOP)
        session.putcmd("DATA")
        assert session.getreply()[0] == 354
        session.send(smtplib.quotedata(large_mail(15 * MIB)) + ".\r\n")
        time.sleep(3)
        room.signal_all("smtpd", signal.SIGKILL)
        code, text = session.getreply()
        assert code == 450, text
        assert b"unreachable" in text
        room.signal_all("cleanup", signal.SIGCONT)

        session.sendmail(EVE, [ALICE], MAIL)

    assert [message["Subject"] for message in room.delivered(1)] == ["hello"]


@told_in_a_room
def test_a_sender_that_vanishes_in_mid_message_leaves_nothing(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    with room.smtp() as session:
        begun(session, ALICE)
        session.putcmd("DATA")
        session.getreply()
        session.send(smtplib.quotedata(large_mail(3 * MIB)))

    room.until(lambda: "disconnect from mx.stranger.example" in room.postfix_log(), "the end of the dialogue")
    cache = room.roots[Role.PROXY] / "var/cache/haraka-in"
    room.until(lambda: not list(cache.iterdir()), "an empty folder")
    assert room.inbox() == []


@told_in_a_room
def test_a_stop_lets_the_running_message_end(room: Room) -> None:
    room.start_postfix()
    haraka = room.start_haraka_in()

    with room.smtp() as session:
        begun(session, ALICE)
        haraka.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert session.data(MAIL)[0] == 250

    room.delivered(1)
    assert haraka.process.wait(timeout=20) == 0


@told_in_a_room
def test_a_full_disk_here_is_a_temporary_failure_and_passes(room: Room) -> None:
    room.start_postfix()
    spool = room.roots[Role.PROXY] / "var/cache/haraka-in"
    spool.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(spool)])
    haraka = room.start_haraka_in()

    with room.smtp() as session:
        begun(session, ALICE)
        try:
            code, text = session.data(large_mail(3 * MIB))
        except smtplib.SMTPServerDisconnected:
            code, text = 421, b""
    assert 400 <= code < 500, text
    assert haraka.process.poll() is None
    with room.smtp() as session:
        session.sendmail(EVE, [ALICE], MAIL)

    assert [message["Subject"] for message in room.delivered(1)] == ["hello"]


@told_in_a_room
def test_a_full_disk_at_the_client_is_a_temporary_failure_and_passes(room: Room) -> None:
    room.start_postfix("queue_minfree = 1000000000000")
    room.start_haraka_in()

    with room.smtp() as session:
        replies = begun(session, ALICE)
    assert replies[0][0] == 450, replies
    assert b"4.3.1 Insufficient system storage" in replies[0][1]

    room.stop_postfix()
    room.start_postfix("queue_minfree = 0")
    with room.smtp() as session:
        session.sendmail(EVE, [ALICE], MAIL)
    room.delivered(1)


SMUGGLED = "MAIL FROM:<boss@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n"


@told_in_a_room
def test_no_false_end_of_a_message_smuggles_a_second_one(room: Room) -> None:
    room.start_postfix()
    room.start_haraka_in()

    for end in ("\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\n\n.\r\n", "\r\n\0.\r\n"):
        with room.smtp() as session:
            begun(session, ALICE)
            session.putcmd("DATA")
            assert session.getreply()[0] == 354
            session.send(f"Subject: outer\r\n\r\nx{end}{SMUGGLED}".encode("latin-1"))
            with suppress(smtplib.SMTPException):
                session.getreply()
        with room.smtp() as session:
            session.sendmail(EVE, [ALICE], MAIL)
    time.sleep(2)

    subjects = {str(message["Subject"]) for message in room.inbox()}
    assert "hello" in subjects
    assert "smuggled" not in subjects
    assert "boss@example.org" not in {message["Return-Path"] for message in room.inbox()}
