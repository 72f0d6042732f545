"""Mail goes in and out, and only where it should."""

# ruff: noqa: D103 (the name of a test is its sentence)

import smtplib

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.people import Person, Stranger


@pytest.mark.gentle
@pytest.mark.settled
def test_mail_from_a_stranger_reaches_the_inbox(stranger: Stranger, alice: Person) -> None:
    stranger.send(alice.address, "hello", "Is this on?\n")

    message = alice.receive("hello")

    assert message.folder == "INBOX"
    assert message.text == "Is this on?\n"
    assert message.client_address == str(stranger.ipv4)  # XCLIENT carried it through the tunnel


@pytest.mark.gentle
@pytest.mark.settled
def test_the_client_sees_the_ipv6_address_of_a_stranger(stranger: Stranger, alice: Person, topology: Topology) -> None:
    if topology.proxy.ipv6 is None or stranger.ipv6 is None:
        pytest.skip("the topology, or the stranger, has no IPv6")
    stranger.send(alice.address, "hello by six", "Is this on?\n", ipv6=True)

    assert alice.receive("hello by six").client_address == str(stranger.ipv6)


@pytest.mark.gentle
@pytest.mark.settled
def test_an_unknown_recipient_is_refused_while_a_known_one_in_the_same_dialogue_gets_the_mail(
    stranger: Stranger, alice: Person, nobody: str
) -> None:
    refused = stranger.send([nobody, alice.address], "to two", "For one of you.\n")

    assert list(refused) == [nobody]
    assert refused[nobody][0] == 550
    assert alice.receive("to two").text == "For one of you.\n"


@pytest.mark.gentle
@pytest.mark.settled
def test_the_proxy_does_not_relay_for_strangers(stranger: Stranger) -> None:
    assert stranger.offer("someone@elsewhere.example").startswith("550")


@pytest.mark.gentle
@pytest.mark.settled
def test_the_proxy_does_not_relay_for_strangers_who_call_themselves_ours(stranger: Stranger, alice: Person) -> None:
    assert stranger.offer("someone@elsewhere.example", sender=alice.address).startswith("550")


@pytest.mark.gentle
@pytest.mark.settled
def test_mail_that_a_user_submits_arrives_outside_with_spf_dkim_and_dmarc_pass(
    stranger: Stranger, alice: Person, topology: Topology
) -> None:
    alice.send(stranger.address, "greetings", "From home.\n")

    received = stranger.receive("greetings")
    verdict = stranger.judge(received)

    assert received.message.get_content().replace("\r\n", "\n") == "From home.\n"
    assert (verdict.spf, verdict.dkim, verdict.dmarc) == ("pass", "pass", "pass")
    assert verdict.dkim_domain == alice.address.partition("@")[2]
    assert received.client_address in {str(topology.proxy.ipv4.ip), str(topology.proxy.ipv6 and topology.proxy.ipv6.ip)}
    assert received.tls is not None


@pytest.mark.gentle
@pytest.mark.settled
def test_mail_between_two_users_stays_at_home(alice: Person, bob: Person, stranger: Stranger) -> None:
    alice.send(bob.address, "for bob", "Lunch?\n")

    assert bob.receive("for bob").text == "Lunch?\n"
    assert stranger.server.received() == () or all(each.subject != "for bob" for each in stranger.server.received())


@pytest.mark.gentle
@pytest.mark.settled
def test_nobody_submits_mail_without_logging_in(alice: Person, stranger: Stranger) -> None:
    with alice.plain_submission() as dialogue:
        dialogue.ehlo()
        code, _ = dialogue.mail(alice.address)
        if code == 250:
            code, _ = dialogue.rcpt(stranger.address)

    assert 500 <= code <= 599


@pytest.mark.gentle
@pytest.mark.settled
def test_no_password_is_taken_outside_tls(alice: Person) -> None:
    with alice.plain_submission() as dialogue:
        dialogue.ehlo()
        assert not dialogue.has_extn("auth")
        with pytest.raises(smtplib.SMTPException):
            dialogue.login(alice.address, alice.password)
