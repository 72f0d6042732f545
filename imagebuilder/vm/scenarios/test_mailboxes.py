"""What a user may do with a mailbox and its passwords, and who is kept away from it."""

# ruff: noqa: D103 (the name of a test is its sentence)

import imaplib
import smtplib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Network

import pytest

from imagebuilder.topology import Role, Topology
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import Person, Stranger, letter
from imagebuilder.vm.world import World

CHANGED = "quite another word"
MOST_MIB = {Role.PROXY: 300, Role.CLIENT: 700}
"""Memory that may be in use after some work."""


def logs_in(person: Person, password: str) -> bool:
    try:
        with person.imap(password=password):
            return True
    except imaplib.IMAP4.error:
        return False


@pytest.mark.settled
def test_a_colleagues_address_in_the_from_field_is_refused(alice: Person, bob: Person, stranger: Stranger) -> None:
    message = letter(bob.address, stranger.address, "it is bob", "Pay.\n")
    with alice.submission() as dialogue, pytest.raises(smtplib.SMTPDataError, match="is not an address of"):
        dialogue.sendmail(alice.address, [stranger.address], message.as_bytes())


@pytest.mark.settled
def test_a_changed_password_outlives_a_start_of_the_mail_store_and_can_be_taken_back(
    alice: Person, client: Machine
) -> None:
    client.succeed(f"echo '{CHANGED}' | mailbox-password set {alice.address}")
    try:
        client.succeed("systemctl restart dovecot")
        client.wait_for_unit("dovecot.service")

        assert logs_in(alice, CHANGED)
        assert not logs_in(alice, alice.password)
    finally:
        client.succeed(f"mailbox-password reset {alice.address}")
    assert logs_in(alice, alice.password)


@pytest.mark.settled
def test_a_program_has_a_password_of_its_own_that_can_be_taken_back(alice: Person, client: Machine) -> None:
    password = client.succeed(f"mailbox-password app {alice.address} phone").strip()

    assert logs_in(alice, password)
    client.succeed(f"mailbox-password revoke {alice.address} phone")
    assert not logs_in(alice, password)
    assert logs_in(alice, alice.password)


@pytest.mark.settled
def test_moving_mail_to_junk_teaches_the_filter(stranger: Stranger, alice: Person, client: Machine) -> None:
    learned = "rspamc --connect=/run/rspamd/controller.sock stat | sed -n 's/^Messages learned: //p'"
    before = int(client.succeed(learned))
    stranger.send(alice.address, "to learn", "Cheap watches and golden rings for you.\n" * 20)
    alice.receive("to learn")

    with alice.imap() as session:
        session.select("INBOX")
        number = session.search(None, "SUBJECT", '"to learn"')[1][0].split()[-1].decode()
        assert session._simple_command("MOVE", number, "Junk")[0] == "OK"

    client.wait_until_succeeds(f"test $({learned}) -gt {before}", within_s=20)


def test_who_guesses_passwords_is_kept_from_mailboxes_by_his_real_address_and_others_are_not(
    alice: Person, stranger: Stranger, proxy: Machine, world: World, topology: Topology
) -> None:
    guesser = replace(alice, host=world.stranger)
    door = topology.proxy.ipv6 or topology.proxy.ipv4  # the name leads to IPv6 first
    source, banned = str(world.stranger.ipv4), "banned_4"
    if topology.proxy.ipv6:  # a ban is about all 64 bits that a customer has
        network = IPv6Network((world.stranger.ipv6, 64), strict=False)
        source, banned = str(network.network_address), "banned_6"

    def guess(number: int) -> None:
        with suppress(imaplib.IMAP4.error, OSError), guesser.imap(password=f"guess {number}"):
            pass

    try:
        # at once, as each waits for its answer
        with ThreadPoolExecutor(topology.bans.wrong_passwords + 2) as pool:
            list(pool.map(guess, range(topology.bans.wrong_passwords + 2)))
        proxy.wait_until_succeeds(f"nft list set inet filter {banned} | grep -F '{source}'", within_s=60)

        with pytest.raises(OSError):
            world.stranger.connect(door.ip, 993, within_s=3)
        assert logs_in(alice, alice.password)
        stranger.send(alice.address, "still welcome", "By the front door.\n")
        alice.receive("still welcome")
    finally:
        proxy.succeed("nft flush set inet filter banned_4; nft flush set inet filter banned_6")


def test_what_runs_leaves_both_machines_their_memory(pair: Pair, stranger: Stranger, alice: Person) -> None:
    for number in ("one", "two"):
        stranger.send_persistently(alice.address, f"work for {number}", "Some work for everybody.\n" * 300)
        alice.send(stranger.address, f"more for {number}", "And some more of it.\n" * 300)
        alice.receive(f"work for {number}")
        stranger.receive(f"more for {number}")

    used = "awk '/^MemTotal/ {all=$2} /^MemAvailable/ {free=$2} END {print int((all-free)/1024)}' /proc/meminfo"
    for role, most_mib in MOST_MIB.items():
        assert int(pair.machines[role].succeed(used)) <= most_mib
