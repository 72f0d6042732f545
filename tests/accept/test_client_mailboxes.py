"""What a mailbox can do: forward, learn, search, keep scripts and passwords of its own."""

import base64
import os
import re
import signal
import smtplib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from tests.accept.client_letters import letter, no_questions
from tests.accept.client_room import CLIENT, PASSWORDS, ClientRoom
from tests.accept.client_stories import Stories

pytestmark = pytest.mark.accept

story = Stories(running=True)
ALICE, BOB, ROBOT = PASSWORDS
FRIEND = "friend@stranger.example"


@pytest.fixture(scope="module")
def outcomes(tools: Tools, package_tree: Callable[[Role], Path]) -> dict[str, str] | None:
    return story.outcomes(tools, package_tree(Role.CLIENT))


def set_password(room: ClientRoom, *arguments: str, typed: str = "") -> str:
    """Run mailbox-password on the client and return what it prints."""
    return room.client(["sh", "-c", 'echo "$0" | mailbox-password "$@"', typed, *arguments]).stdout.strip()


def logs_in(room: ClientRoom, user: str, password: str) -> bool:
    try:
        with room.submission(user, password):
            return True
    except smtplib.SMTPAuthenticationError:
        return False


# --- forwards


@story
def test_forwarded_mail_keeps_its_spf_and_its_signature_and_a_bounce_finds_its_way_back(room: ClientRoom) -> None:
    assert room.deliver("away@example.org", "forwarded")[0] == 250

    envelope, content = room.outgoing("forwarded")

    assert envelope.rcpt_tos == [FRIEND]
    rewritten = envelope.mail_from
    assert rewritten is not None
    assert re.fullmatch(r"SRS0=[^=]+=[^=]+=stranger\.example=joe@example\.org", rewritten)
    assert b"d=stranger.example" in content
    assert b"ARC-Seal: i=1;" in content
    assert b"127.0.0.1" not in content
    shown = "MAILER-DAEMON@stranger.example"
    assert room.deliver(rewritten, "it bounced", sender="", shown=shown)[0] == 250
    bounce, _ = room.outgoing("it bounced")
    assert bounce.rcpt_tos == ["joe@stranger.example"]


@story
def test_a_rewritten_sender_that_we_did_not_make_is_refused(room: ClientRoom) -> None:
    with room.stranger() as session:
        session.mail("")
        code, reply = session.rcpt("SRS0=AAAA=XX=victim.example=joe@club.example.net")

    assert code == 550, reply


@story
def test_a_script_that_passes_mail_on_keeps_spf_too(room: ClientRoom) -> None:
    assert room.deliver(ALICE, "pass on")[0] == 250

    envelope, _ = room.outgoing("pass on")

    assert (envelope.mail_from or "").startswith("SRS0=")


@story
def test_mail_that_stays_keeps_its_sender(room: ClientRoom) -> None:
    assert room.deliver(ALICE, "stays")[0] == 250

    assert room.receive(ALICE, "stays")["Return-Path"] == "<joe@stranger.example>"


# --- names


@story
def test_a_colleagues_address_in_the_from_field_is_refused(room: ClientRoom) -> None:
    for field in (BOB, f"Bob <{BOB}>", f"{ALICE}, {BOB}", f'"{ALICE}" <{BOB}>', "ceo@stranger.example"):
        with room.submission(ALICE, PASSWORDS[ALICE]) as session:
            session.mail(ALICE)
            session.rcpt(FRIEND)
            code, reply = session.data(letter(field, FRIEND, "it is bob", "pay\n"))
        assert code == 554, (field, reply)
        assert b"is not an address of" in reply, reply


@story
def test_a_second_from_field_or_a_foreign_sender_field_is_refused(room: ClientRoom) -> None:
    for headers in (f"From: {BOB}\n", f"Sender: {BOB}\n"):
        with room.submission(ALICE, PASSWORDS[ALICE]) as session:
            session.mail(ALICE)
            session.rcpt(FRIEND)
            assert session.data(letter(ALICE, FRIEND, "two", "pay\n", headers))[0] == 554, headers


@story
def test_a_user_may_write_as_himself_his_aliases_and_with_a_detail(room: ClientRoom) -> None:
    for number, field in enumerate(
        (f"Alice <{ALICE}>", "info@club.example.net", "alice+list@example.org", "Alice@Example.org")
    ):
        with room.submission(ALICE, PASSWORDS[ALICE]) as session:
            session.sendmail(ALICE, [FRIEND], letter(field, FRIEND, f"mine {number}", "hi\n"))
        room.outgoing(f"mine {number}")


# --- passwords


@story
def test_a_changed_password_takes_the_place_of_the_first_one_and_outlives_a_start(room: ClientRoom) -> None:
    set_password(room, "set", ROBOT, typed="quite another word")

    assert logs_in(room, ROBOT, "quite another word")
    assert not logs_in(room, ROBOT, PASSWORDS[ROBOT])
    assert logs_in(room, ALICE, PASSWORDS[ALICE])
    # an update brings the secrets' hashes again, and the unit starts with this
    set_password(room, "apply")
    assert logs_in(room, ROBOT, "quite another word")
    set_password(room, "reset", ROBOT)
    assert logs_in(room, ROBOT, PASSWORDS[ROBOT])
    changed = (room.root / "var/lib/mailbox-passwords/changed").read_text()
    assert "another" not in changed


@story
def test_a_program_has_a_password_of_its_own_that_can_be_taken_back(room: ClientRoom) -> None:
    phone = set_password(room, "app", ALICE, "phone")
    tablet = set_password(room, "app", ALICE, "tablet")

    assert len(phone) >= 24
    assert set_password(room, "list", ALICE).split() == ["phone", "tablet"]
    for password in (phone, tablet, PASSWORDS[ALICE]):
        assert logs_in(room, ALICE, password)
    assert not logs_in(room, BOB, phone)
    with room.imap(ALICE, phone) as session:
        assert session.select("INBOX")[0] == "OK"
    set_password(room, "revoke", ALICE, "phone")
    assert not logs_in(room, ALICE, phone)
    assert logs_in(room, ALICE, tablet)


@story
def test_a_password_for_nobody_or_too_short_is_refused(room: ClientRoom) -> None:
    for arguments, typed in ((("set", "nobody@example.org"), "long enough"), (("set", ALICE), "short")):
        done = room.client(["sh", "-c", 'echo "$0" | mailbox-password "$@"', typed, *arguments], check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("mailbox-password: ")
    assert logs_in(room, ALICE, PASSWORDS[ALICE])


# --- folders


@story
def test_moving_mail_to_junk_and_back_teaches_the_filter(room: ClientRoom) -> None:
    assert room.deliver(ALICE, "to learn", text="cheap watches and golden rings for you\n" * 20)[0] == 250
    room.receive(ALICE, "to learn")

    def learned() -> int:
        told = room.client(["rspamc", "--connect=/run/rspamd/controller.sock", "stat"]).stdout
        return int(re.findall(r"Messages learned: (\d+)", told)[0])

    before = learned()
    with room.imap(ALICE) as session:
        session.select("INBOX")
        number = session.search(None, "SUBJECT", '"to learn"')[1][0].split()[-1].decode()
        assert session._simple_command("MOVE", number, "Junk")[0] == "OK"
    room.until(lambda: learned() == before + 1, "Rspamd to learn spam", within_s=20)
    with room.imap(ALICE) as session:
        session.select("Junk")
        number = session.search(None, "SUBJECT", '"to learn"')[1][0].split()[-1].decode()
        assert session._simple_command("MOVE", number, "INBOX")[0] == "OK"
    room.until(lambda: learned() == before + 2, "Rspamd to learn ham", within_s=20)


@story
def test_a_word_inside_a_mail_is_found_by_the_index(room: ClientRoom) -> None:
    assert room.deliver(ALICE, "to find", text="Today the Wetterbericht is read aloud.\n")[0] == 250
    room.receive(ALICE, "to find")

    with room.imap(ALICE) as session:
        session.select("INBOX")
        started = time.monotonic()
        found = session.search(None, "BODY", "wetterbericht")[1][0].split()
        assert time.monotonic() - started < 5

    assert found
    index = list((room.root / "var/vmail/example.org/alice").rglob("fts-flatcurve"))
    assert index, "no index on disk"


@story
def test_a_user_keeps_scripts_by_managesieve_inside_the_tunnel(room: ClientRoom) -> None:
    sock = room.connect("proxy", CLIENT, 4190)
    script = b'require ["fileinto", "mailbox"]; if header :contains "subject" "[own]" { fileinto :create "Own"; }'
    with sock:
        plain = sock.makefile("rb")
        capabilities = b"".join(iter(plain.readline, b'OK "ready"\r\n'))
        assert b"STARTTLS" in capabilities
        assert b"PLAIN" not in capabilities.partition(b"SASL")[2].splitlines()[0]
        assert b"Dovecot" not in capabilities
        sock.sendall(b"STARTTLS\r\n")
        while not plain.readline().startswith(b"OK"):
            pass
        with no_questions().wrap_socket(sock) as secured:
            lines = secured.makefile("rb")
            while not lines.readline().startswith(b"OK"):
                pass
            token = base64.b64encode(f"\0{BOB}\0{PASSWORDS[BOB]}".encode())
            for command in (
                b'AUTHENTICATE "PLAIN" "' + token + b'"',
                b'PUTSCRIPT "mine" {%d+}\r\n%s' % (len(script), script),
                b'SETACTIVE "mine"',
            ):
                secured.sendall(command + b"\r\n")
                answer = lines.readline()
                assert answer.startswith(b"OK"), (command, answer)

    assert room.deliver(BOB, "[own] news")[0] == 250
    room.receive(BOB, "[own] news", "Own")


@story
def test_a_users_mail_beyond_the_hourly_number_is_put_off(room: ClientRoom) -> None:
    codes = []
    with room.submission(BOB, PASSWORDS[BOB]) as session:
        for number in range(26):
            session.mail(BOB)
            session.rcpt(FRIEND)
            codes.append(session.data(letter(BOB, FRIEND, f"many {number}", "hi\n"))[0])
            session.rset()

    assert codes[:15] == [250] * 15
    assert codes[-1] in (450, 451)
    # somebody else's mail goes on
    with room.submission(ROBOT, PASSWORDS[ROBOT]) as session:
        session.sendmail(ROBOT, [FRIEND], letter(ROBOT, FRIEND, "another user", "hi\n"))


@story
def test_with_the_rewriter_away_other_mail_still_comes_in(room: ClientRoom) -> None:
    processes = [p for p in Path("/proc").glob("[0-9]*") if (p / "comm").read_text() == "postsrsd\n"]
    assert processes
    for process in processes:
        os.kill(int(process.name), signal.SIGKILL)

    assert room.deliver(ALICE, "still in")[0] == 250
    room.receive(ALICE, "still in")
    assert room.deliver("away@example.org", "waits")[0] == 250
    time.sleep(1)
    assert not [one for one in room.sent if b"Subject: waits" in (one.original_content or b"")]
