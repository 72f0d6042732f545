"""Much at once: large messages, many messages, many connections."""

# ruff: noqa: D103 (the name of a test is its sentence)

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.people import SMTP, Person, Stranger, letter
from imagebuilder.vm.waiting import Seen, wait_for
from imagebuilder.vm.world import World

MANY = 10
AT_ONCE = 20
"""Connections of one source to the mail port that the firewall lets be open."""


def wait_for_all(person: Person, subject: str, wanted: int) -> None:
    """Return when so many messages with *subject* in theirs are in the inbox of *person*."""

    def look() -> Seen:
        with person.imap() as session:
            session.select("INBOX", readonly=True)
            found = (session.search(None, "SUBJECT", f'"{subject}"')[1][0] or b"").split()
            return Seen(len(found) >= wanted, f"{len(found)} of {wanted}")

    wait_for(f"all that is called {subject!r}", look, within_s=person.patience.seconds(30), every_s=1)


@pytest.mark.settled
def test_many_messages_in_a_row_arrive_once_each(stranger: Stranger, alice: Person) -> None:
    wanted = {f"row {number}" for number in range(MANY)}
    with stranger.dialogue() as dialogue:
        for subject in wanted:
            message = letter(stranger.address, alice.address, subject, "One of many.\n")
            dialogue.sendmail(stranger.address, [alice.address], message.as_bytes())

    wait_for_all(alice, "row ", MANY)
    with alice.imap() as session:
        session.select("INBOX", readonly=True)
        numbers = session.search(None, "SUBJECT", '"row "')[1][0].decode().split()
        _, parts = session.fetch(",".join(numbers), "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    subjects = sorted(part[1].decode().split(":")[1].strip() for part in parts if isinstance(part, tuple))
    assert subjects == sorted(wanted)


@pytest.mark.settled
def test_ten_senders_at_once_are_served_without_a_deferral(stranger: Stranger, alice: Person) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda number: stranger.send(alice.address, f"at once {number}", "Hello.\n"), range(10)))

    wait_for_all(alice, "at once ", 10)


@pytest.mark.settled
def test_mails_of_users_at_once_go_out(stranger: Stranger, alice: Person) -> None:
    subjects = [f"out at once {number}" for number in range(5)]
    with ExitStack() as dialogues:
        # One after the other, as an emulated machine takes seconds for each: a password is made slow to guess.
        ready = [dialogues.enter_context(alice.submission()) for _ in subjects]
        letters = [letter(alice.address, stranger.address, subject, "Hello.\n").as_bytes() for subject in subjects]
        with ThreadPoolExecutor(len(ready)) as pool:
            list(
                pool.map(
                    lambda pair: pair[0].sendmail(alice.address, [stranger.address], pair[1]),
                    zip(ready, letters, strict=True),
                )
            )

    for subject in subjects:
        stranger.receive(subject)


@pytest.mark.settled
def test_one_source_can_not_take_all_connections_and_others_still_get_in(
    stranger: Stranger, alice: Person, world: World, topology: Topology
) -> None:
    address = topology.proxy.ipv4.ip
    with ExitStack() as open_ones:
        for _ in range(AT_ONCE):
            line = open_ones.enter_context(world.stranger.connect(address, SMTP, within_s=alice.patience.seconds(10)))
            assert line.recv(4) == b"220 "
        with pytest.raises(OSError):
            world.stranger.connect(address, SMTP, within_s=3)

        with world.user.connect(address, SMTP, within_s=alice.patience.seconds(10)) as another:
            assert another.recv(4) == b"220 "
        assert alice.count("nothing") == 0  # logs in
    stranger.send_persistently(alice.address, "let in again", "After you.\n")
    alice.receive("let in again")
