"""What leaves by the proxy: signed, whole, and without a word about home."""

# ruff: noqa: D103 (the name of a test is its sentence)

import re

import dns.resolver
import pytest

from imagebuilder.services.postfix import alias_targets, owner_rows
from imagebuilder.topology import Topology
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.names import GONE
from imagebuilder.vm.people import Person, Stranger, letter
from imagebuilder.vm.session import Session
from imagebuilder.vm.world import World

pytestmark = pytest.mark.settled


def test_each_domain_signs_with_its_own_key(
    stranger: Stranger, alice: Person, bed: Session, topology: Topology
) -> None:
    owners = {row.address: row.targets.split(",")[0] for row in owner_rows(topology, alias_targets(topology))}
    for domain in topology.mail.domains:
        address = f"postmaster@{domain.name}"  # every domain has it
        login = owners[address]
        owner = Person(login, bed.passwords[login], topology, alice.host, alice.patience, alice.trust)
        owner.send(stranger.address, f"signed by {domain.name}", "Yours.\n", sender=address)

        verdict = stranger.judge(stranger.receive(f"signed by {domain.name}"))

        assert (verdict.dkim, verdict.dmarc) == ("pass", "pass")
        assert (verdict.dkim_domain, verdict.dkim_selector) == (domain.name, domain.dkim_selector)


@pytest.mark.gentle
def test_long_and_strange_lines_leave_the_signature_whole(stranger: Stranger, alice: Person) -> None:
    body = "".join(
        f"{'.' * (number % 3)}{'x' * length}\r\n" for number, length in enumerate((997, 998, 0, 1, 3000, 60))
    )
    message = letter(alice.address, stranger.address, "long lines", "x\n").as_bytes().replace(b"x\r\n", body.encode())
    message = message.replace(b"7bit", b"8bit") + "From Bücher\tund   Leerzeichen   \r\n\r\n".encode()
    with alice.submission() as dialogue:
        dialogue.sendmail(alice.address, [stranger.address], message, ["BODY=8BITMIME"])

    assert stranger.judge(stranger.receive("long lines")).dkim == "pass"


def test_what_leaves_tells_nothing_of_home_or_of_the_user(
    stranger: Stranger, alice: Person, bed: Session, topology: Topology
) -> None:
    message = letter(alice.address, stranger.address, "out of sight", "Hello.\n")
    message["User-Agent"], message["X-Mailer"] = "Kestrel/1.2", "Kestrel/1.2"
    message["X-Originating-IP"], message["Received"] = (
        "192.168.44.55",
        "from laptop.lan ([192.168.44.55]) by phone; now",
    )
    with alice.submission() as dialogue:
        dialogue.sendmail(alice.address, [stranger.address], message.as_bytes())

    received = stranger.receive("out of sight")

    places, tunnel = bed.world.places, topology.tunnel
    addresses = (places.user.ipv4.ip, places.home.ipv4.ip, places.client.ipv4.ip)
    secrets = [
        *map(str, (*addresses, tunnel.proxy_address, tunnel.client_address)),
        str(alice.host.ipv6),
        "192.168.44.55",
    ]
    secrets += [topology.client.hostname, "Kestrel", "laptop.lan", "localhost"]
    header = received.raw.partition(b"\n\n")[0]
    told = [each for each in secrets if re.search(rf"(?<![\w.:]){re.escape(each)}(?![\w.:])", header.decode())]
    assert told == []
    assert len(received.message.get_all("Received", [])) == 1


def test_the_proxy_calls_itself_by_the_name_that_its_address_has(
    stranger: Stranger, alice: Person, world: World, topology: Topology
) -> None:
    alice.send(stranger.address, "who calls", "It is us.\n")

    received = stranger.receive("who calls")

    assert received.helo == topology.proxy.hostname
    asked = dns.resolver.Resolver(configure=False)
    asked.nameservers = [str(world.places.dns_ipv4)]
    with world.stranger.entered():
        names = [str(each) for each in asked.resolve_address(received.client_address)]
    assert names == [f"{topology.proxy.hostname}."]


@pytest.mark.gentle
def test_mail_without_date_and_number_gets_them(stranger: Stranger, alice: Person, topology: Topology) -> None:
    bare = f"From: {alice.address}\r\nTo: {stranger.address}\r\nSubject: bare\r\n\r\nHello.\r\n"
    with alice.submission() as dialogue:
        dialogue.sendmail(alice.address, [stranger.address], bare.encode())

    message = stranger.receive("bare").message

    assert message["Date"] is not None
    assert str(message["Message-ID"]).endswith(f"@{topology.proxy.hostname}>")


def test_a_user_may_write_as_an_alias_and_with_a_detail(stranger: Stranger, alice: Person, topology: Topology) -> None:
    box = next(each for each in topology.mail.mailboxes if each.address == alice.address)
    name, _, domain = alice.address.partition("@")
    for sender in (f"{name}+list@{domain}", *box.aliases[:1]):
        alice.send(stranger.address, f"as {sender}", "It is me.\n", sender=sender)

        assert stranger.judge(stranger.receive(f"as {sender}")).dmarc == "pass"


def test_mail_that_nobody_takes_comes_back_to_the_user_with_the_reason(alice: Person) -> None:
    alice.send(GONE, "are you there", "Hello?\n")

    bounce = alice.receive("failure notice", within_s=60)

    assert bounce.message["Auto-Submitted"] is not None
    assert GONE.encode() in bounce.raw
    assert b"nobody of that name is left" in bounce.raw


def test_a_bounce_of_our_own_is_signed(stranger: Stranger, client: Machine, nobody: str) -> None:
    client.succeed(f"printf 'Subject: to nobody\\n\\nx\\n' | sendmail -f {stranger.address} {nobody}")

    bounce = stranger.receive("Undelivered Mail Returned to Sender")

    assert bounce.sender == ""
    assert stranger.judge(bounce).dkim == "pass"
