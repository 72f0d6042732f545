"""Whoever logs in is who he is, and is seen as where he is."""

# ruff: noqa: D103 (the name of a test is its sentence)

import imaplib
import smtplib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.people import Person

pytestmark = pytest.mark.settled


def addresses_of(alice: Person, topology: Topology) -> list[tuple[Person, IPv4Address | IPv6Address]]:
    """Return *alice* as she calls by each protocol, with the address she calls from."""
    ways: list[tuple[Person, IPv4Address | IPv6Address]] = [
        (replace(alice, server=str(topology.proxy.ipv4.ip)), alice.host.ipv4)
    ]
    if topology.proxy.ipv6 is not None and alice.host.ipv6 is not None:
        ways.append((replace(alice, server=str(topology.proxy.ipv6.ip)), alice.host.ipv6))
    return ways


@pytest.mark.gentle
def test_imap_sees_the_real_address_of_a_user(alice: Person, client: Inside, topology: Topology) -> None:
    for calling, address in addresses_of(alice, topology):
        with calling.imap() as session:
            assert session.select("INBOX")[0] == "OK"

        client.wait_until_succeeds(f"journalctl --boot --unit=dovecot | grep -F 'rip={address},'", within_s=10)


@pytest.mark.gentle
def test_submission_sees_the_real_address_of_a_user(alice: Person, client: Inside, topology: Topology) -> None:
    for calling, address in addresses_of(alice, topology):
        with calling.submission() as dialogue:
            assert dialogue.noop()[0] == 250

        client.wait_until_succeeds(f"journalctl --boot | grep 'postfix.*smtpd' | grep -F '[{address}]'", within_s=10)


def test_a_wrong_password_opens_no_mailbox(alice: Person) -> None:
    with pytest.raises(imaplib.IMAP4.error), alice.imap(password="not-the-password"):
        pass


def test_a_wrong_password_sends_no_mail(alice: Person) -> None:
    with pytest.raises(smtplib.SMTPAuthenticationError), alice.submission(password="not-the-password"):
        pass


def test_nobody_logs_in_as_somebody_who_does_not_exist(alice: Person) -> None:
    nobody = replace(alice, address=f"nobody-of-that-name@{alice.address.partition('@')[2]}")

    with pytest.raises(imaplib.IMAP4.error), nobody.imap():
        pass
