"""What a mail program finds in a mailbox, and what it may do there."""

# ruff: noqa: D103 (the name of a test is its sentence)

import imaplib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage

import pytest

from imagebuilder.services.dovecot import SIEVE_PORT
from imagebuilder.topology import Topology
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.people import Person, Stranger, letter
from imagebuilder.vm.waiting import Seen, wait_for
from imagebuilder.vm.world import World

pytestmark = pytest.mark.settled

USES = {"Drafts", "Sent", "Archive", "Junk", "Trash"}


def numbers(session: imaplib.IMAP4, *criteria: str) -> list[str]:
    """Return which messages of the selected folder match."""
    status, found = session.search(None, *criteria)
    assert status == "OK"
    return (found[0] or b"").decode().split()


def separator(session: imaplib.IMAP4) -> str:
    """Return what stands between the names of a folder and of one inside it."""
    found = re.search(rb'\) "(.)" ', session.list('""', "INBOX")[1][0])  # type: ignore[arg-type]
    assert found is not None
    return found[1].decode()


def written(alice: Person, subject: str, text: str = "hello\n") -> EmailMessage:
    """Return a letter of *alice* to herself."""
    return letter(alice.address, alice.address, subject, text)


@pytest.mark.gentle
def test_every_program_finds_the_same_folders_for_the_same_uses(alice: Person) -> None:
    with alice.imap() as session:
        folders = [line.decode() for line in session.list()[1] if isinstance(line, bytes)]
        subscribed = b" ".join(line for line in session.lsub()[1] if isinstance(line, bytes)).decode()

    for use in USES:
        assert any(re.search(rf'\\{use}\b.*"?{use}"?$', line) for line in folders), folders
        assert use in subscribed


def test_a_mailbox_says_how_much_room_it_has(alice: Person, topology: Topology) -> None:
    box = next(each for each in topology.mail.mailboxes if each.address == alice.address)

    with alice.imap() as session:
        _, answer = session.getquotaroot("INBOX")

    assert f"{box.quota_mib * 1024})" in str(answer)


def test_a_word_inside_a_mail_is_found_by_an_index(stranger: Stranger, alice: Person, client: Machine) -> None:
    stranger.send(alice.address, "to be found", "Morgen kommt der Wetterbericht früher.\n")
    alice.receive("to be found")

    with alice.imap() as session:
        session.select("INBOX")
        assert numbers(session, "BODY", "wetterbericht", "SUBJECT", '"to be found"')
        assert not numbers(session, "BODY", "zwetschgenbaum", "SUBJECT", '"to be found"')
    name, _, domain = alice.address.partition("@")
    client.succeed(f"find /var/vmail/{domain}/{name} -path '*fts-flatcurve*' -type f | grep .")


@pytest.mark.gentle
def test_a_phrase_with_words_of_one_letter_is_found(stranger: Stranger, alice: Person) -> None:
    stranger.send(alice.address, "on a visit", "We give it a 7 of 10.\n")
    alice.receive("on a visit")

    with alice.imap() as session:
        session.select("INBOX")
        assert numbers(session, "BODY", '"a 7 of 10"')
        assert not numbers(session, "BODY", '"a 9 of 10"')


@pytest.mark.gentle
def test_a_program_that_waits_is_told_of_new_mail_at_once(stranger: Stranger, alice: Person) -> None:
    with alice.imap() as session:
        session.select("INBOX")
        session.send(b"w1 IDLE\r\n")
        assert session.readline().startswith(b"+")
        stranger.send(alice.address, "while you wait", "Now.\n")
        session.sock.settimeout(alice.patience.seconds(15))
        started, told = time.monotonic(), b""
        while b" EXISTS" not in told and time.monotonic() - started < alice.patience.seconds(15):
            told = session.readline()
        session.send(b"DONE\r\n")

    assert b" EXISTS" in told


@pytest.mark.gentle
def test_what_a_program_puts_down_copies_moves_and_deletes_is_where_it_put_it(alice: Person) -> None:
    with alice.imap() as session:
        inner = f"Letters{separator(session)}2026"
        for folder in ("Letters", inner):
            assert session.create(folder)[0] == "OK"
        assert session.append("Letters", r"(\Seen \Draft)", "", written(alice, "put down").as_bytes())[0] == "OK"
        session.select("Letters")
        assert b"\\Draft" in session.fetch("1", "(FLAGS)")[1][0]  # type: ignore[operator]
        assert session.copy("1", "Archive")[0] == "OK"
        assert session._simple_command("MOVE", "1", inner)[0] == "OK"
        assert numbers(session, "ALL") == []
        session.select(inner)
        assert numbers(session, "SUBJECT", '"put down"') == ["1"]
        session.store("1", "+FLAGS", r"(\Deleted)")
        session.expunge()
        session.close()
        assert session.rename("Letters", "Post")[0] == "OK"
        assert session.delete(inner.replace("Letters", "Post"))[0] == "OK"
        assert session.delete("Post")[0] == "OK"

    assert alice.count("put down") == 1  # the copy


@pytest.mark.gentle
def test_many_devices_of_one_user_read_at_once(alice: Person) -> None:
    with alice.imap() as session:
        session.append("Archive", "", "", written(alice, "read by many").as_bytes())

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: alice.count("read by many"), range(8)))

    assert counts == [1] * 8


@pytest.mark.gentle
def test_two_programs_see_what_the_other_one_does(alice: Person) -> None:
    with alice.imap() as one, alice.imap() as other:
        one.append("Archive", "", "", written(alice, "seen by both").as_bytes())
        other.select("Archive")
        [number] = numbers(other, "SUBJECT", '"seen by both"')
        other.store(number, "+FLAGS", r"(\Flagged)")
        one.select("Archive")

        assert numbers(one, "SUBJECT", '"seen by both"', "FLAGGED") == [number]


def test_scripts_are_managed_inside_the_tunnel_and_nowhere_else(
    proxy: Machine, world: World, topology: Topology
) -> None:
    greeting = f"exec 5<>/dev/tcp/{topology.tunnel.client_address}/{SIEVE_PORT}; timeout 10 head -n 6 <&5"

    assert '"STARTTLS"' in proxy.succeed(greeting)
    assert "Dovecot" not in proxy.succeed(greeting)
    for host, address in ((world.user, topology.proxy.ipv4.ip), (world.lan, world.places.client.ipv4.ip)):
        with pytest.raises(OSError):
            host.connect(address, SIEVE_PORT, within_s=2)


def test_the_scripts_of_the_topology_file_mail(client: Machine, topology: Topology) -> None:
    scripts = {box.address: box.sieve for box in topology.mail.mailboxes if box.sieve}
    if not scripts:
        pytest.skip("no mailbox of the topology has a script")
    for address, script in scripts.items():
        assert client.read_file(f"/run/dovecot-sieve/users/{address}.sieve").decode() == script
        client.succeed(f"test -s /run/dovecot-sieve/users/{address}.svbin")


def test_mail_is_where_it_was_after_the_store_starts_afresh(alice: Person, client: Machine) -> None:
    with alice.imap() as session:
        session.append("Archive", r"(\Flagged)", "", written(alice, "kept over a start").as_bytes())

    client.succeed("systemctl restart dovecot")

    def look() -> Seen:
        try:
            return Seen(alice.count("kept over a start") == 1, "no such message")
        except (OSError, imaplib.IMAP4.error) as error:
            return Seen(False, f"{type(error).__name__}: {error}")

    wait_for("the mail store to be back", look, within_s=alice.patience.seconds(20))
