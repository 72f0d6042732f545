"""What is done with mail that is not what it says it is."""

# ruff: noqa: D103 (the name of a test is its sentence)

import smtplib

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.names import STRICT_DOMAIN, WARY_DOMAIN
from imagebuilder.vm.people import Person, Stranger, letter

pytestmark = pytest.mark.settled

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


def deliver(
    stranger: Stranger, alice: Person, subject: str, *, text: str = "hello\n", **fields: str
) -> tuple[int, str]:
    """Send a message with further header *fields*, their names with _ for -, and return the reply to its end."""
    sender = fields.pop("sender", stranger.address)
    message = letter(sender, alice.address, subject, text)
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    with stranger.dialogue() as dialogue:
        dialogue.mail(sender)
        code, said = dialogue.rcpt(alice.address)
        if code == 250:
            code, said = dialogue.data(message.as_bytes())
    return code, said.decode(errors="replace")


@pytest.mark.gentle
def test_spam_is_refused_in_the_dialogue(stranger: Stranger, alice: Person) -> None:
    code, said = deliver(stranger, alice, "buy now", text=f"{GTUBE}\n")

    assert code >= 550, said
    assert alice.count("buy now") == 0


def test_a_users_own_spam_does_not_leave(alice: Person, stranger: Stranger) -> None:
    with pytest.raises(smtplib.SMTPDataError):
        alice.send(stranger.address, "buy from us", f"{GTUBE}\n")


@pytest.mark.gentle
def test_a_stranger_who_writes_in_our_name_is_refused(stranger: Stranger, alice: Person) -> None:
    code, said = deliver(stranger, alice, "it is me", sender=f"boss@{alice.address.partition('@')[2]}")

    assert code >= 550, said
    assert alice.count("it is me") == 0


def test_a_domain_that_wants_forged_mail_refused_gets_its_wish(stranger: Stranger, alice: Person) -> None:
    code, said = deliver(stranger, alice, "from your bank", sender=f"bank@{STRICT_DOMAIN}")

    assert code >= 550, said
    assert alice.count("from your bank") == 0


def test_a_domain_that_wants_forged_mail_set_aside_gets_its_wish(stranger: Stranger, alice: Person) -> None:
    code, said = deliver(stranger, alice, "from your club", sender=f"club@{WARY_DOMAIN}")

    assert code == 250, said
    assert alice.receive("from your club").folder == "Junk"


def test_a_mark_of_spam_that_the_stranger_put_there_is_taken_off(stranger: Stranger, alice: Person) -> None:
    assert deliver(stranger, alice, "marked by myself", X_Spam="Yes")[0] == 250

    message = alice.receive("marked by myself")

    assert message.folder == "INBOX"
    assert message.message["X-Spam"] is None


@pytest.mark.gentle
def test_the_verdict_stands_in_the_message_and_a_forged_one_is_taken_off(
    stranger: Stranger, alice: Person, topology: Topology
) -> None:
    forged = f"{topology.proxy.hostname}; dkim=pass header.d=bank.example"
    assert deliver(stranger, alice, "judged already", Authentication_Results=forged)[0] == 250

    verdicts = [str(each) for each in alice.receive("judged already").message.get_all("Authentication-Results", [])]

    own = [each for each in verdicts if each.startswith(topology.proxy.hostname)]
    assert len(own) == 1
    assert "spf=pass" in own[0]
    assert "bank.example" not in own[0]


@pytest.mark.gentle
def test_a_first_mail_of_an_unknown_server_is_not_put_off(
    stranger: Stranger, alice: Person, topology: Topology
) -> None:
    if topology.filter.greylisting:
        pytest.skip("the topology wants greylisting")

    assert stranger.send_persistently(alice.address, "nice to meet you", "Hello.\n") == 1
