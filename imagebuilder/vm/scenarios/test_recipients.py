"""Who gets what is sent to which address, and what nobody gets."""

# ruff: noqa: D103 (the name of a test is its sentence)

import smtplib

import pytest

from imagebuilder.topology import Topology
from imagebuilder.topology.model import MailDomain
from imagebuilder.vm.people import Person, Stranger, letter
from imagebuilder.vm.session import Session

pytestmark = pytest.mark.settled

MIB = 2**20


def domain_with_catch_all(topology: Topology) -> tuple[MailDomain, str]:
    """Return a domain with a catch-all, and whose that is."""
    for domain in topology.mail.domains:
        if domain.catch_all:
            return domain, domain.catch_all
    pytest.skip("no domain of the topology has a catch-all")


def test_mail_to_an_alias_reaches_its_owner(stranger: Stranger, bed: Session, topology: Topology) -> None:
    owned = [(alias, box.address) for box in topology.mail.mailboxes if not box.send_only for alias in box.aliases]
    if not owned:
        pytest.skip("no mailbox of the topology has an alias")
    alias, address = owned[0]

    stranger.send(alias, "by another name", "You again.\n")

    assert bed.owner_of(address).receive("by another name").text == "You again.\n"


def test_a_guest_whom_no_image_names_gets_mail_and_answers(stranger: Stranger, bed: Session) -> None:
    guest = bed.owner_of(bed.credentials.guests[0].address)

    stranger.send(guest.address, "for a day", "Welcome.\n")
    assert guest.receive("for a day").text == "Welcome.\n"
    guest.send(stranger.address, "from a guest", "Thanks.\n")

    assert stranger.judge(stranger.receive("from a guest")).dmarc == "pass"


def test_mail_to_a_shared_address_reaches_everybody_behind_it(
    stranger: Stranger, bed: Session, topology: Topology
) -> None:
    receiving = {box.address for box in topology.mail.mailboxes if not box.send_only}
    shared = [alias for alias in topology.mail.aliases if len(receiving & set(alias.targets)) > 1]
    if not shared:
        pytest.skip("no address of the topology is shared by two mailboxes")

    stranger.send(shared[0].address, "to all of you", "Meeting.\n")

    for target in receiving & set(shared[0].targets):
        assert bed.owner_of(target).receive("to all of you").text == "Meeting.\n"


def test_mail_that_an_address_passes_on_arrives_outside_with_spf_pass(stranger: Stranger, topology: Topology) -> None:
    hosted = {domain.name for domain in topology.mail.domains}
    outside = [
        (alias.address, target)
        for alias in topology.mail.aliases
        for target in alias.targets
        if target.rpartition("@")[2] not in hosted
    ]
    if not outside:
        pytest.skip("no address of the topology leads outside")
    address, target = outside[0]

    stranger.send(address, "passed on", "Tell the others.\n")
    received = stranger.receive("passed on")

    assert received.recipient == target
    assert received.sender.rpartition("@")[2] in hosted  # a sender of ours, whom a bounce finds
    assert stranger.judge(received).spf == "pass"


def test_a_catch_all_takes_what_nobody_has_and_steals_nothing(
    stranger: Stranger, bed: Session, topology: Topology
) -> None:
    domain, taker = domain_with_catch_all(topology)
    receiving = [box for box in topology.mail.mailboxes if not box.send_only and box.address != taker]
    names = [name for box in receiving for name in (box.address, *box.aliases) if name.endswith(f"@{domain.name}")]
    stranger.send(f"whoever-that-is@{domain.name}", "for whoever", "Found you.\n")
    catcher = bed.owner_of(taker)
    assert catcher.receive("for whoever").text == "Found you.\n"
    if not names:
        pytest.skip(f"the catch-all of {domain.name} works, but nobody else has an address there")

    stranger.send(names[0], "not for whoever", "You alone.\n")

    owner = next(box.address for box in receiving if names[0] in (box.address, *box.aliases))
    bed.owner_of(owner).receive("not for whoever")
    assert catcher.count("not for whoever") == 0


@pytest.mark.gentle
def test_what_stands_behind_a_plus_and_the_case_of_letters_do_not_matter(stranger: Stranger, alice: Person) -> None:
    name, _, domain = alice.address.partition("@")

    stranger.send(f"{name.upper()}+shop@{domain.title()}", "by a long name", "Your order.\n")

    assert alice.receive("by a long name").text == "Your order.\n"


def test_an_account_that_only_sends_takes_no_mail_and_sends(
    stranger: Stranger, alice: Person, bed: Session, topology: Topology
) -> None:
    senders = [box.address for box in topology.mail.mailboxes if box.send_only]
    if not senders:
        pytest.skip("no account of the topology is for sending only")
    account = Person(senders[0], bed.passwords[senders[0]], topology, alice.host, alice.patience, alice.trust)

    reply = stranger.offer(account.address)
    account.send(stranger.address, "paper jam", "Tray 2.\n")

    assert reply.startswith("550")
    assert "only sends" in reply
    assert stranger.judge(stranger.receive("paper jam")).dmarc == "pass"


@pytest.mark.gentle
def test_a_message_above_the_limit_is_refused_before_it_is_sent(
    stranger: Stranger, alice: Person, topology: Topology
) -> None:
    too_much = max(domain.max_message_mib for domain in topology.mail.domains) * MIB + MIB
    with stranger.dialogue() as dialogue:
        code, text = dialogue.mail(stranger.address, [f"SIZE={too_much}"])
        assert code in (550, 552), text
        assert dialogue.mail(stranger.address, [f"SIZE={too_much // 2}"])[0] == 250
    with alice.submission() as dialogue:
        assert dialogue.mail(alice.address, [f"SIZE={too_much}"])[0] in (550, 552)


def test_a_full_mailbox_is_told_to_the_senders_server_and_takes_mail_again_when_there_is_room(
    stranger: Stranger, bed: Session
) -> None:
    small = min(bed.credentials.guests, key=lambda guest: guest.quota_mib)
    owner = bed.owner_of(small.address)
    filler = letter(owner.address, owner.address, "filler", "x" * 76 + "\n").as_bytes()
    filler += (b"y" * 76 + b"\r\n") * (MIB // 78)
    with owner.imap() as session:
        for _ in range(small.quota_mib):
            if session.append("Archive", "", "", filler)[0] != "OK":
                break
        session.append("Archive", "", "", filler[: MIB // 2])

    with stranger.dialogue() as dialogue:
        dialogue.mail(stranger.address, [f"SIZE={MIB}"])
        code, text = dialogue.rcpt(owner.address)
    assert code in (550, 552), text
    assert b"mailbox is full" in text

    with owner.imap() as session:
        session.select("Archive")
        session.store("1:*", "+FLAGS", r"(\Deleted)")
        session.expunge()
    stranger.send(owner.address, "room again", "At last.\n")
    assert owner.receive("room again").text == "At last.\n"


def test_mail_to_a_member_and_to_nobody_is_refused_for_nobody_alone(
    alice: Person, stranger: Stranger, nobody: str
) -> None:
    message = letter(alice.address, stranger.address, "to two of them", "One exists.\n")

    with alice.submission() as dialogue:
        refused = dialogue.sendmail(alice.address, [nobody, stranger.address], message.as_bytes())

    assert list(refused) == [nobody]
    assert refused[nobody][0] == 550
    stranger.receive("to two of them")
    with alice.submission() as dialogue, pytest.raises(smtplib.SMTPRecipientsRefused):
        dialogue.sendmail(alice.address, [nobody], message.as_bytes())
