"""What may be said to the ports for mail, and what they give away."""

# ruff: noqa: D103 (the name of a test is its sentence)

import re
import smtplib
from contextlib import suppress

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.people import IMAPS, SMTP, SUBMISSION, Person, Stranger
from imagebuilder.vm.readiness import greeting
from imagebuilder.vm.surroundings import Outside
from imagebuilder.vm.wire import Wire, wire
from imagebuilder.vm.world import World, unverified

pytestmark = pytest.mark.settled

MIB = 2**20
VERSION = re.compile(r"\d+\.\d+|Haraka|Postfix|Dovecot|Debian|HAProxy|Caddy", re.IGNORECASE)
FALSE_ENDS = (
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\n\n.\r\n",
    b"\r\n\0.\r\n",
)  # fmt: skip
"""What some servers take for the end of a message, and others don't (SMTP smuggling)."""
CLAIMED = "192.0.2.66"
"""An address that nobody in the world has."""


def smuggling(line: Wire, end: bytes, sender: str, recipient: str, subject: str) -> None:
    """Hide a second message with *subject* behind the false *end* of the one that was begun on *line*."""
    hidden = (
        f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\nFrom: {sender}\r\nSubject: {subject}\r\n\r\nx\r\n"
    )
    line.send(f"From: {sender}\r\nSubject: around it\r\n\r\nx".encode() + end + hidden.encode() + b".\r\n")
    with suppress(EOFError, OSError):
        line.reply()


@pytest.mark.gentle
def test_no_greeting_tells_a_version(proxy: Inside, world: Outside, topology: Topology) -> None:
    address, limit = str(topology.proxy.ipv4.ip), proxy.patience.seconds(10)

    for port, secure in ((SMTP, False), (SUBMISSION, False), (IMAPS, True)):
        said = greeting(world.stranger, address, port, secure=secure, within_s=limit).decode()
        assert VERSION.search(said.replace(topology.proxy.hostname, "")) is None, said
    # the protocol wants the software's version there (RFC 4253 section 4.2), but not the distribution's
    assert "Debian" not in greeting(world.stranger, address, 22, within_s=limit).decode()


@pytest.mark.gentle
def test_the_mail_port_offers_what_it_keeps_and_nothing_else(stranger: Stranger, topology: Topology) -> None:
    with stranger.dialogue(secure=False) as dialogue:
        offered = dict(dialogue.esmtp_features)

    assert set(offered) == {"pipelining", "8bitmime", "size", "starttls"}
    assert int(offered["size"]) == max(domain.max_message_mib for domain in topology.mail.domains) * MIB


@pytest.mark.gentle
def test_submission_offers_logins_inside_tls_only_and_nothing_for_proxies(alice: Person) -> None:
    with alice.plain_submission() as dialogue:
        dialogue.ehlo()
        before = set(dialogue.esmtp_features)
    with alice.submission() as dialogue:
        dialogue.ehlo()
        after = set(dialogue.esmtp_features)

    assert "auth" not in before
    assert after >= {"auth", "8bitmime", "size"}
    assert not (before | after) & {"xclient", "xforward", "vrfy", "etrn", "expn"}


@pytest.mark.gentle
def test_nobody_learns_by_asking_who_has_a_mailbox(stranger: Stranger, alice: Person, nobody: str) -> None:
    with stranger.dialogue() as dialogue:
        answers = {who: dialogue.docmd("VRFY", who) for who in (alice.address, nobody)}
        expanded = dialogue.docmd("EXPN", alice.address)
    with alice.submission() as dialogue:
        refused = [dialogue.docmd(verb, alice.address)[0] for verb in ("VRFY", "EXPN")]

    assert answers[alice.address] == answers[nobody]
    assert expanded[0] >= 500
    assert min(refused) >= 500


@pytest.mark.gentle
def test_a_stranger_who_speaks_for_another_address_is_not_heard(
    stranger: Stranger, alice: Person, topology: Topology
) -> None:
    claim = ("XCLIENT", f"ADDR={CLAIMED} NAME=mx.somebody.example")
    with stranger.dialogue() as dialogue:
        by_mail_port = dialogue.docmd(*claim)[0]
    with alice.plain_submission() as dialogue:
        dialogue.ehlo()
        by_submission = [dialogue.docmd(*claim)[0]]
        dialogue.starttls(context=unverified())
        dialogue.ehlo()
        by_submission.append(dialogue.docmd(*claim)[0])

    assert by_mail_port >= 500
    assert min(by_submission) >= 500


def test_a_strangers_proxy_header_is_believed_at_no_port(
    stranger: Stranger, world: World, client: Machine, topology: Topology
) -> None:
    address, limit = topology.proxy.ipv4.ip, stranger.patience.seconds(10)
    for port in (SMTP, SUBMISSION):
        with wire(world.stranger, address, port, within_s=limit) as line:
            assert line.order(f"PROXY TCP4 {CLAIMED} {address} 40000 {port}").code >= 400
    with world.stranger.connect(address, IMAPS, within_s=limit) as line:
        line.sendall(f"PROXY TCP4 {CLAIMED} {address} 40000 {IMAPS}\r\na CAPABILITY\r\n".encode())
        with suppress(OSError):  # cut off, or told in TLS that this is none
            assert b"CAPABILITY" not in line.recv(1000)

    assert CLAIMED not in client.journal()


@pytest.mark.gentle
def test_a_pipelining_sender_gets_each_answer_in_order(
    stranger: Stranger, alice: Person, nobody: str, world: Outside, topology: Topology
) -> None:
    orders = ("MAIL FROM:<>", f"RCPT TO:<{nobody}>", f"RCPT TO:<{alice.address}>", "RSET", "QUIT")
    with wire(world.stranger, topology.proxy.ipv4.ip, SMTP, within_s=stranger.patience.seconds(10)) as line:
        line.order(f"EHLO {stranger.helo}")
        line.send("".join(f"{order}\r\n" for order in orders).encode())
        codes = [line.reply().code for _ in orders]

    assert codes == [250, 550, 250, 250, 221]


@pytest.mark.gentle
@pytest.mark.parametrize("port", [SMTP, SUBMISSION])
def test_what_is_sent_before_tls_is_not_taken_for_sent_inside(
    stranger: Stranger, world: Outside, topology: Topology, port: int
) -> None:
    with wire(world.stranger, topology.proxy.ipv4.ip, port, within_s=stranger.patience.seconds(10)) as line:
        line.order(f"EHLO {stranger.helo}")
        line.send(b"STARTTLS\r\nRSET\r\n")
        try:
            begun = line.reply().code == 220
        except EOFError:
            begun = False
        if not begun:
            return
        line.encrypt(unverified(), topology.proxy.hostname)
        answer = line.order(f"EHLO {stranger.helo}")

    assert len(answer.lines) > 1, "the answer to RSET came first"


def test_a_bounce_and_a_letter_to_postmaster_are_taken(stranger: Stranger, alice: Person, topology: Topology) -> None:
    with stranger.dialogue() as dialogue:
        assert dialogue.mail("")[0] == 250
        assert dialogue.rcpt(alice.address)[0] == 250
        assert dialogue.docmd("RCPT", "TO:<Postmaster>")[0] == 250  # RFC 5321 section 4.5.1
        for domain in topology.mail.domains:
            for name in ("postmaster", "abuse"):
                assert dialogue.rcpt(f"{name}@{domain.name}")[0] == 250


@pytest.mark.gentle
def test_an_old_server_that_says_helo_is_served(stranger: Stranger, alice: Person) -> None:
    with stranger.dialogue(secure=False) as dialogue:
        assert dialogue.helo(stranger.helo)[0] == 250
        assert dialogue.mail(stranger.address)[0] == 250
        assert dialogue.rcpt(alice.address)[0] == 250


def test_no_false_end_of_a_message_smuggles_a_second_one_in(
    stranger: Stranger, world: World, alice: Person, topology: Topology
) -> None:
    for number, end in enumerate(FALSE_ENDS):
        with wire(world.stranger, topology.proxy.ipv4.ip, SMTP, within_s=stranger.patience.seconds(10)) as line:
            line.begin(stranger.address, alice.address, stranger.helo)
            smuggling(line, end, stranger.address, alice.address, f"smuggled in {number}")
    stranger.send(alice.address, "after the smugglers", "The last one.\n")

    alice.receive("after the smugglers")
    assert alice.count("smuggled in") == 0


def test_no_false_end_of_a_message_smuggles_a_second_one_out(alice: Person, stranger: Stranger) -> None:
    with alice.submission() as dialogue:
        for number, end in enumerate(FALSE_ENDS):
            dialogue.mail(alice.address)
            dialogue.rcpt(stranger.address)
            assert dialogue.docmd("DATA")[0] == 354
            hidden = (
                f"MAIL FROM:<{alice.address}>\r\nRCPT TO:<{stranger.address}>\r\nDATA\r\nSubject: smuggled out {number}"
            )
            content = f"From: {alice.address}\r\nSubject: around it {number}\r\n\r\nx".encode() + end
            dialogue.send(content + f"{hidden}\r\n\r\nx\r\n.\r\n".encode())
            try:
                dialogue.getreply()
            except smtplib.SMTPServerDisconnected:
                break  # Postfix hangs up on whom it takes for a smuggler
            dialogue.rset()
    alice.send(stranger.address, "after the smugglers out", "The last one.\n")

    stranger.receive("after the smugglers out")
    assert [each.subject for each in stranger.server.received() if each.subject.startswith("smuggled")] == []
