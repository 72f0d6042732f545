"""The client's daemons do together what they are there for."""

import email
import gzip
import imaplib
import json
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import pytest

from imagebuilder.dns.records import ROOT_SERVERS
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm.namespace import entered
from tests.accept.client_letters import USER, content_of, letter, only, proxy_header
from tests.accept.client_room import (
    CLIENT,
    CLIENT_6,
    GUEST,
    GUEST_PASSWORD,
    HOME,
    MX,
    PASSWORDS,
    PROXY,
    ROUTER,
    STRANGER_6,
    ClientRoom,
)
from tests.accept.client_stories import Stories
from tests.accept.proxy_room import Unit

pytestmark = pytest.mark.accept

story = Stories(running=True)
ALICE, BOB, ROBOT = PASSWORDS
CLUB = "info@club.example.net"
SHOP = "laden@xn--bcher-kva.example"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\n"


@pytest.fixture(scope="module")
def outcomes(tools: Tools, package_tree: Callable[[Role], Path]) -> dict[str, str] | None:
    return story.outcomes(tools, package_tree(Role.CLIENT))


# --- strangers


@story
def test_a_strangers_mail_arrives_with_its_address_and_a_verdict(room: ClientRoom) -> None:
    assert room.deliver(ALICE, "by IPv4")[0] == 250
    assert room.deliver(ALICE, "by IPv6", address=STRANGER_6)[0] == 250

    four, six = room.receive(ALICE, "by IPv4"), room.receive(ALICE, "by IPv6")

    assert "(mx.stranger.example [198.51.100.25])" in four.get_all("Received", [])[1]
    assert f"[IPv6:{STRANGER_6}]" in six.get_all("Received", [])[1]
    for message in (four, six):
        verdict = message["Authentication-Results"]
        assert all(part in verdict for part in ("dkim=pass", "spf=pass", "dmarc=pass"))
        assert verdict.startswith("mail.example.org;")
    assert four.get_payload() == "hello\r\n"


@story
def test_a_domain_that_asks_for_it_is_told_who_used_its_name(room: ClientRoom) -> None:
    assert room.deliver(ALICE, "counted", sender="joe@curious.example.com", unsigned="yes")[0] == 250
    today = time.strftime("%Y%m%d", time.gmtime())
    before = len(room.sent)

    command = ["rspamadm", "dmarc_report", "-c", "/etc/rspamd/rspamd.conf", today]
    room.until(lambda: room.as_user("_rspamd", "valkey", command) and len(room.sent) > before, "a report")

    report = room.sent[before]
    assert report.rcpt_tos == ["reports@curious.example.com"]
    message = email.message_from_bytes(content_of(report))
    assert message["From"].endswith("<postmaster@example.org>")
    assert "d=example.org" in message["DKIM-Signature"]
    packed = next(part for part in message.walk() if part.get_content_type() == "application/gzip")
    told = gzip.decompress(bytes(packed.get_payload(decode=True))).decode()
    assert "<domain>curious.example.com</domain>" in told
    assert "<source_ip>198.51.100.25</source_ip>" in told
    assert "<spf>pass</spf>" in told


@story
def test_a_domain_that_asks_for_it_is_told_how_tls_went_and_the_proxys_other_words_are_not_repeated(
    room: ClientRoom,
) -> None:
    policy = {"policy-type": "sts", "policy-string": ["version: STSv1"], "mx-host": [MX], "note": "buy this"}
    went = {"policy": policy, "mx": MX, "ip": "198.51.100.25", "from": "198.18.0.10"}
    sessions = [
        *3 * [went | {"domain": "stranger.example", "result": "success"}],
        *2 * [went | {"domain": "stranger.example", "result": "certificate-expired"}],
        went | {"domain": "stranger.example", "result": "buy this"},
        went | {"domain": "plain.example", "result": "success"},  # which does not ask
        went | {"domain": "victim@stranger.example", "result": "success"},
        went | {"domain": "example.org", "result": "success"},  # ours
    ]
    before = len(room.sent)

    with answers_once(room, "\n".join(json.dumps(each) for each in sessions) + "\nno JSON\n") as questions:
        unit = Unit.read(room.root / "usr/lib/systemd/system/tls-report.service")
        assert room.as_user("nobody", "", ["env", *unit.words("Environment"), unit.one("ExecStart"), "2026-11-25"])

    room.until(lambda: len(room.sent) > before, "a report")
    assert questions == ["2026-11-25\n"]
    (report,) = room.sent[before:]
    assert report.rcpt_tos == ["tls@stranger.example"]
    content = content_of(report)
    assert room.signature_holds(content)
    assert b"buy this" not in content
    message = email.message_from_bytes(content)
    assert message["TLS-Report-Domain"] == "stranger.example"
    assert message["TLS-Report-Submitter"] == "example.org"
    assert message["TLS-Required"] == "No"
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "tlsrpt"
    part = next(part for part in message.walk() if part.get_content_type() == "application/tlsrpt+gzip")
    assert part.get_filename() == "example.org!stranger.example!1795564800!1795651199.json.gz"
    told = json.loads(gzip.decompress(bytes(part.get_payload(decode=True))))
    assert message["Subject"].split()[2:5:2] == ["stranger.example", "example.org"]
    assert told["report-id"] in message["Subject"]
    assert told["date-range"]["start-datetime"] == "2026-11-25T00:00:00Z"
    (judged,) = told["policies"]
    assert judged["policy"] == {
        "policy-type": "sts", "policy-string": ["version: STSv1"], "mx-host": [MX], "policy-domain": "stranger.example",
    }  # fmt: skip
    assert judged["summary"] == {"total-successful-session-count": 3, "total-failure-session-count": 2}
    (failure,) = judged["failure-details"]
    assert failure == {
        "result-type": "certificate-expired", "failed-session-count": 2, "receiving-mx-hostname": MX,
        "receiving-ip": "198.51.100.25", "sending-mta-ip": "198.18.0.10",
    }  # fmt: skip


@contextmanager
def answers_once(room: ClientRoom, text: str) -> Iterator[list[str]]:
    """Play the proxy's part for one question, which is in the list that is yielded."""
    questions: list[str] = []
    with entered("proxy"):
        listening = socket.create_server((PROXY, 2528))

    def answer() -> None:
        with listening, listening.accept()[0] as connection:
            questions.append(connection.makefile().readline())
            connection.sendall(text.encode())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield questions
    thread.join(10)


@story
def test_whom_the_proxy_does_not_announce_is_put_off(room: ClientRoom) -> None:
    with room.smtp() as session:
        session.ehlo()
        session.mail("joe@stranger.example")

        assert session.rcpt(ALICE)[0] == 450


@story
def test_whom_the_proxy_announces_by_words_that_name_no_address_is_put_off(room: ClientRoom) -> None:
    for words in ("ADDR=nonsense", f"NAME={MX} HELO={MX}", "ADDR=2001:db8::1", f"ADDR={PROXY}", "PORT=4711"):
        with room.smtp() as session:
            session.ehlo()
            session.docmd("XCLIENT", words)
            session.ehlo(MX)
            session.mail("joe@stranger.example")

            assert session.rcpt(ALICE)[0] == 450, words


@story
def test_nobody_relays_through_us_even_as_a_local_address(room: ClientRoom) -> None:
    for address in ("198.51.100.25", "127.0.0.1", CLIENT, "::1"):
        with room.stranger(address) as session:
            session.mail("joe@stranger.example")

            assert session.rcpt("friend@stranger.example")[0] in (450, 554)


@story
def test_each_recipient_is_judged_for_itself(room: ClientRoom) -> None:
    with room.stranger() as session:
        session.mail("joe@stranger.example")
        codes = [session.rcpt(to)[0] for to in ("unknown@club.example.net", ROBOT, "Team@Example.org")]
        session.data(letter("joe@stranger.example", "team@example.org", "to many", "hello\n"))

    assert codes == [550, 550, 250]
    room.receive(ALICE, "to many")
    room.receive(BOB, "to many")


@story
def test_addresses_lead_where_the_topology_says(room: ClientRoom) -> None:
    for to, owner in ((CLUB, ALICE), ("postmaster@club.example.net", ALICE), ("anything@example.org", BOB)):
        assert room.deliver(to, f"for {to}")[0] == 250
        room.receive(owner, f"for {to}")
    assert room.deliver("alice+shop@example.org", "with a detail")[0] == 250
    room.receive(ALICE, "with a detail")


@story
def test_a_guest_whom_the_secrets_alone_name_gets_mail_and_sends_as_himself_alone(room: ClientRoom) -> None:
    assert room.deliver(GUEST, "welcome")[0] == 250
    room.receive(GUEST, "welcome")
    friend = "friend@stranger.example"
    with room.submission(GUEST, GUEST_PASSWORD) as session:
        session.sendmail(GUEST, [friend], letter(GUEST, friend, "thanks", "hi\n"))
        with pytest.raises(smtplib.SMTPDataError, match="not an address of"):
            session.sendmail(GUEST, [friend], letter(ALICE, friend, "not me", "hi\n"))
        session.mail(ALICE)
        assert session.rcpt(friend)[0] == 553
    assert room.signature_holds(room.outgoing("thanks")[1])


@story
def test_spam_is_refused_in_the_dialogue_and_doubtful_mail_filed_under_junk(room: ClientRoom) -> None:
    assert room.deliver(ALICE, "buy", text=GTUBE)[0] == 554
    doubtful = {"sender": "joe@careless.example", "shown": '"bank@money.example" <joe@careless.example>'}

    assert room.deliver(ALICE, "doubtful", unsigned="yes", **doubtful)[0] == 250

    assert room.receive(ALICE, "doubtful", "Junk")["X-Spam"] == "Yes"


@story
def test_a_strangers_own_spam_mark_is_taken_off(room: ClientRoom) -> None:
    assert room.deliver(ALICE, "marked", headers="X-Spam: Yes\n")[0] == 250

    assert room.receive(ALICE, "marked")["X-Spam"] is None


@story
def test_a_stranger_who_writes_in_our_name_is_refused(room: ClientRoom) -> None:
    code, reply = room.deliver(ALICE, "it is me", sender=BOB, unsigned="yes")

    assert code == 554, reply
    assert "DMARC" in reply


@story
def test_a_full_mailbox_is_told_to_the_senders_server(room: ClientRoom) -> None:
    code, reply = room.deliver(BOB, "too much", size="3000000")

    assert code == 552, reply
    assert "mailbox" in reply


@story
def test_too_large_a_message_is_refused_before_it_is_sent(room: ClientRoom) -> None:
    with room.stranger() as session:
        assert session.mail("joe@stranger.example", [f"size={37 * 1024 * 1024}"])[0] == 552


@story
def test_what_strangers_need_not_know_is_not_said(room: ClientRoom) -> None:
    with room.stranger() as session:
        assert session.docmd("VRFY", ALICE)[0] == 502
        assert not session.has_extn("etrn")
        assert not session.has_extn("dsn")
        assert not session.has_extn("auth")
    with room.smtp() as session:
        assert session.docmd("EHLO", "x")[1].split()[0] == b"mail.example.org"


@story
def test_a_users_script_files_answers_and_passes_on(room: ClientRoom) -> None:
    for subject in ("[list] news", "on holiday?", "pass on"):
        assert room.deliver(ALICE, subject)[0] == 250

    room.receive(ALICE, "[list] news", "Lists")
    envelope, answer = room.outgoing("Auto: on holiday?")
    assert envelope.rcpt_tos == ["joe@stranger.example"]
    assert room.signature_holds(answer)
    envelope, passed_on = room.outgoing("pass on")
    assert envelope.rcpt_tos == ["friend@stranger.example"]
    # somebody else's words do not get our signature
    assert b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org" not in passed_on


# --- users


@story
def test_a_users_mail_leaves_signed_and_tells_nothing_of_home(room: ClientRoom) -> None:
    friend = "friend@stranger.example"
    told = "Received: from laptop ([192.168.1.5]) by phone; now\nX-Originating-IP: 10.1.2.3\nUser-Agent: Bird/1\n"
    with room.submission(ALICE, PASSWORDS[ALICE]) as session:
        session.sendmail(ALICE, [friend], letter(ALICE, friend, "out", "hi\n", told))

    envelope, content = room.outgoing("out")

    assert envelope.mail_from == ALICE
    assert room.signature_holds(content)
    assert b"d=example.org; s=dkim" in b" ".join(content.split())
    assert content.count(b"Received:") == 1
    for secret in (USER, HOME, CLIENT, "192.168.1.5", "10.1.2.3", "laptop", "home.example.org", "Bird"):
        assert secret.encode() not in content, secret
    assert room.said("submission", f"client=unknown[{USER}]", f"sasl_username={ALICE}")


@story
def test_an_alias_in_another_domain_is_signed_by_that_domain(room: ClientRoom) -> None:
    with room.submission(ALICE, PASSWORDS[ALICE]) as session:
        session.sendmail(CLUB, ["friend@stranger.example"], letter(CLUB, "friend@stranger.example", "club", "hi\n"))

    _, content = room.outgoing("club")

    assert b"d=club.example.net" in content
    assert room.signature_holds(content)


@story
def test_a_domain_in_another_script_is_one_like_others(room: ClientRoom) -> None:
    friend = "friend@stranger.example"
    assert room.deliver(SHOP, "for the shop")[0] == 250
    room.receive(ALICE, "for the shop")

    with room.submission(ALICE, PASSWORDS[ALICE]) as session:
        session.sendmail(SHOP, [friend], letter(SHOP, friend, "from the shop", "hi\n"))

    _, content = room.outgoing("from the shop")
    assert b"d=xn--bcher-kva.example" in content
    assert room.signature_holds(content)


@story
def test_an_address_in_another_script_is_refused_before_anything_is_sent(room: ClientRoom) -> None:
    with room.stranger() as session:
        assert not session.has_extn("smtputf8")
        session.command_encoding = "utf-8"
        for address in ("jürgen@stranger.example", "joe@bücher.example"):
            assert session.docmd("MAIL", f"FROM:<{address}> SMTPUTF8")[0] >= 500
    with room.submission(ALICE, PASSWORDS[ALICE]) as session:
        assert not session.has_extn("smtputf8")


@story
def test_a_mail_without_date_and_number_gets_them(room: ClientRoom) -> None:
    with room.submission(ROBOT, PASSWORDS[ROBOT]) as session:
        bare = f"From: {ROBOT}\r\nTo: friend@stranger.example\r\nSubject: bare\r\n\r\nhi\r\n"
        session.sendmail(ROBOT, ["friend@stranger.example"], bare)

    _, content = room.outgoing("bare")

    assert b"\nDate: " in content
    assert b"@mail.example.org>" in content


@story
def test_nobody_sends_in_another_ones_name(room: ClientRoom) -> None:
    for sender in (BOB, "somebody@stranger.example", "postmaster@example.org"):
        expected = 250 if sender.startswith("postmaster") else 553
        with room.submission(ALICE, PASSWORDS[ALICE]) as session:
            session.mail(sender)

            assert session.rcpt("friend@stranger.example")[0] == expected, sender


@story
def test_submission_needs_tls_and_the_right_password(room: ClientRoom) -> None:
    with room.smtp(10587, proxy_header(USER, 587)) as session:
        session.ehlo("laptop.lan")
        assert not session.has_extn("auth")
        assert session.mail(ALICE)[0] == 530
    with pytest.raises(smtplib.SMTPAuthenticationError), room.submission(ALICE, "guess"):
        pass
    assert room.said("submission", USER, "authentication failed")


@story
def test_old_ciphers_are_refused_and_modern_ones_taken(room: ClientRoom) -> None:
    def shaken(port: int, ciphers: str) -> bool:
        with room.connect("proxy", CLIENT, port) as plain:
            plain.sendall(proxy_header(USER, port - 10000))
            if port == 10587:
                lines = plain.makefile("rb")
                lines.readline()
                plain.sendall(b"STARTTLS\r\n")
                lines.readline()
            try:
                only(ciphers).wrap_socket(plain).close()
            except (ssl.SSLError, OSError):
                return False
            return True

    for port in (10587, 10993):
        assert shaken(port, "ECDHE-ECDSA-AES128-GCM-SHA256")
        for old in ("ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"):
            assert not shaken(port, old), (port, old)


@story
def test_a_typing_error_in_our_own_domain_is_told_at_once(room: ClientRoom) -> None:
    with room.submission(ALICE, PASSWORDS[ALICE]) as session:
        session.mail(ALICE)

        assert session.rcpt("inof@club.example.net")[0] == 550
        assert session.rcpt(ROBOT)[0] == 550


@story
def test_imap_knows_the_users_address_and_refuses_a_wrong_password(room: ClientRoom) -> None:
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"), room.imap(ALICE, "guess"):
        pass
    with room.imap(ALICE) as session:
        folders = b" ".join(line for line in session.list()[1] if isinstance(line, bytes))
        quota = session.getquotaroot("INBOX")[1]

    for name in (b"\\Drafts", b"\\Sent", b"\\Archive", b"\\Junk", b"\\Trash"):
        assert name in folders
    assert "5242880" in str(quota)
    assert room.said("imap-login: Logged in", f"user=<{ALICE}>", f"rip={USER}", "TLS")
    assert room.said("auth_failed", f"rip={USER}")


@story
def test_a_users_port_without_the_proxys_header_or_with_half_of_it_is_closed(room: ClientRoom) -> None:
    for port in (10587, 10993):
        for start in (b"EHLO guess\r\n" * 3, proxy_header(USER, 587)[:12] + b"\x11" * 40):
            with room.connect("proxy", CLIENT, port) as plain:
                plain.sendall(start)
                answer = b""
                with suppress(ConnectionResetError):
                    while more := plain.recv(100):
                        answer += more

                assert answer == b"" or answer.startswith(b"421 "), (port, start, answer)


# --- the network


@story
def test_from_home_nothing_answers_and_through_the_tunnel_only_mail(room: ClientRoom) -> None:
    ports = (22, 25, 53, 80, 110, 143, 465, 587, 993, 2525, 4190, 6379, 10025, 10587, 10993, 11332, 11334)

    at_home = [port for port in ports if room.answers("home", HOME, port, 0.3)]

    assert at_home == []
    for address in (CLIENT, CLIENT_6):
        in_tunnel = [port for port in ports if room.answers("proxy", address, port, 0.3)]
        assert in_tunnel == [25, 4190, 10587, 10993], address


@story
def test_mail_never_leaves_by_the_line_at_home(room: ClientRoom) -> None:
    with room.connect("client", ROOT_SERVERS["a"][0], 53):
        pass  # the way itself is open
    for port in (25, 465, 587, 2526):
        with pytest.raises(ConnectionRefusedError):
            room.connect("client", ROUTER, port, 2)
    room.ip("client", "link set wg0 down")
    try:
        with pytest.raises(OSError, match=r"route|refused|prohibited|denied"):
            room.connect("client", PROXY, 2526, 2)
    finally:
        room.ip("client", "link set wg0 up")


@story
def test_names_are_validated(room: ClientRoom) -> None:
    query = dns.message.make_query("mail.example.org.", "A", want_dnssec=True)
    with entered("client"):
        answer = dns.query.udp(query, "127.0.0.1", timeout=10)

    assert answer.answer
    assert answer.flags & dns.flags.AD


# --- the end


@story
def test_the_daemons_had_nothing_to_complain_of(room: ClientRoom) -> None:
    words = ("warning:", "error:", "fatal:", "panic:", "cannot open", "Permission denied")
    expected = (
        "authentication failed",  # a guessed password, above
        "no shared cipher",  # the old ciphers that were offered
        "Illegal address syntax",  # the addresses in another script
        "haproxy",  # the connections without a header, or with half of one, and the look at which ports answer
    )

    complaints = [
        line
        for line in room.lines
        if line.startswith(("postfix", "dovecot", "unbound", "valkey"))
        if any(word.lower() in line.lower() for word in words) and not any(word in line for word in expected)
    ]

    assert complaints == []
