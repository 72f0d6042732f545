"""The world outside: its names validate, its home line hides who is behind it, its judge can tell."""

import fcntl
import json
import smtplib
import socket
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPSConnection
from urllib.parse import urlsplit

import dkim  # type: ignore[import-untyped]
import dns.dnssec
import dns.exception
import dns.message
import dns.name
import dns.node
import dns.query
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import pytest

from imagebuilder.dns.published import Finding, NameServers, State, findings
from imagebuilder.dns.records import reverse_records, zone_records
from imagebuilder.secrets.keys import Secrets
from imagebuilder.topology import Topology
from imagebuilder.vm.host import Host
from imagebuilder.vm.mta import MailServer, Received
from imagebuilder.vm.names import STRANGER_DOMAIN
from imagebuilder.vm.namespace import has_many_users, inside
from imagebuilder.vm.people import letter
from imagebuilder.vm.verdict import Verdict, judge
from imagebuilder.vm.waiting import Seen, wait_for
from imagebuilder.vm.world import BRIDGES, FOLDER, World

pytestmark = pytest.mark.vm

SIOCGIFHWADDR = 0x8927  # linux/sockios.h


def validated(world: World, name: str, kind: str, anchor: str) -> list[str]:
    """Return the answer for *name*, checked from *anchor* down; raises dns.exception.ValidationFailure."""
    root = dns.name.root
    keys: dict[dns.name.Name, dns.node.Node | dns.rdataset.Rdataset] = {
        root: dns.rrset.from_text(".", 86400, "IN", "DNSKEY", anchor.split("DNSKEY ", 1)[1])
    }
    query = dns.message.make_query(name, kind, want_dnssec=True)
    with world.user.entered():
        answer = dns.query.udp_with_fallback(query, "198.41.0.4", timeout=5)[0]
    asked = dns.rdatatype.from_text(kind)
    records = answer.find_rrset(answer.answer, dns.name.from_text(name), dns.rdataclass.IN, asked)
    signatures = answer.find_rrset(
        answer.answer, dns.name.from_text(name), dns.rdataclass.IN, dns.rdatatype.RRSIG, asked
    )
    dns.dnssec.validate(records, signatures, keys)
    return sorted(record.to_text() for record in records)


def test_names_resolve_on_every_host_and_back(new_world: Callable[[], World], topology: Topology) -> None:
    name = topology.proxy.hostname

    def work() -> dict[str, tuple[set[str], str]]:
        seen = {}
        with new_world() as world:
            for host in world.hosts:
                with host.entered():
                    found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, 25, type=socket.SOCK_STREAM)}
                    seen[host.name] = found, socket.gethostbyaddr(str(topology.proxy.ipv4.ip))[0]
                    with pytest.raises(socket.gaierror):
                        socket.getaddrinfo("nobody.example", 25)
        return seen

    addresses = {str(topology.proxy.ipv4.ip), *([str(topology.proxy.ipv6.ip)] if topology.proxy.ipv6 else [])}
    assert inside(work) == dict.fromkeys(("internet", "stranger", "user", "home", "lan"), (addresses, name))


def test_answers_validate_with_the_worlds_own_anchor_and_with_no_other(new_world: Callable[[], World]) -> None:
    def work() -> list[str]:
        with new_world() as world:
            answers = validated(world, "example.org", "MX", world.dns.trust_anchor)
            key = world.dns.trust_anchor
            forged = key[:-6] + ("A" if key[-6] != "A" else "B") + key[-5:]
            with pytest.raises(dns.exception.ValidationFailure):
                validated(world, "example.org", "MX", forged)
            return answers

    assert inside(work) == ["10 mail.example.org."]


def test_the_home_line_hides_its_lan_and_lets_nobody_in(new_world: Callable[[], World]) -> None:
    def work() -> tuple[str, str]:
        with new_world() as world, world.stranger.listen(25) as listener:
            listener.settimeout(10)
            with world.lan.connect(world.stranger.ipv4, 25):
                _, (seen, *_) = listener.accept()
            with world.lan.listen(8080), pytest.raises(OSError):
                world.stranger.connect(world.lan.ipv4, 8080, within_s=2)
            return str(seen), str(world.home.ipv4)

    seen, home = inside(work)
    assert seen == f"::ffff:{home}"


def test_the_zone_that_dns_prints_is_served_and_found_good_by_its_own_check(
    new_world: Callable[[], World], topology: Topology
) -> None:
    def work() -> tuple[int, list[Finding]]:
        with new_world() as world, world.stranger.entered():
            records = (*zone_records(topology, world.public), *reverse_records(topology))
            found = findings(records, NameServers())
            return len(found), [each for each in found if each.state is not State.GOOD]

    count, others = inside(work)
    assert count > 10
    assert others == []


def test_the_topologys_authority_answers_everywhere_until_it_is_down(
    new_world: Callable[[], World], topology: Topology
) -> None:
    where = urlsplit(topology.acme.directory)

    def directory(world: World, host: Host) -> dict[str, object]:
        with host.entered(), closing(HTTPSConnection(where.hostname or "", context=world.trust, timeout=10)) as asked:
            asked.request("GET", where.path)
            found: dict[str, object] = json.loads(asked.getresponse().read())
            return found

    def work() -> list[object]:
        with new_world() as world:
            found = [directory(world, host)["newOrder"] for host in (world.stranger, world.lan)]
            world.authority.close()
            with pytest.raises(ConnectionRefusedError):
                directory(world, world.stranger)
            world.authority.open()
            world.authority.refuse("closed today")
            assert directory(world, world.stranger)["detail"] == "closed today"
            world.mend()
            return [*found, directory(world, world.stranger)["newOrder"]]

    (one,) = set(inside(work))
    assert str(one).startswith(f"https://{where.hostname}/")


def test_a_lost_packet_is_a_rule_away(new_world: Callable[[], World]) -> None:
    drop = "table inet fault { chain lost { type filter hook forward priority 0; policy accept; ip daddr %s drop; }; }"

    def work() -> None:
        with new_world() as world, world.stranger.listen(25):
            world.user.connect(world.stranger.ipv4, 25).close()
            world.firewall(world.internet, drop % world.stranger.ipv4)
            with pytest.raises(TimeoutError):
                world.user.connect(world.stranger.ipv4, 25, within_s=1)

    inside(work)


def test_the_strangers_server_keeps_what_it_takes_relays_for_nobody_and_is_down_while_it_is_stopped(
    new_world: Callable[[], World],
) -> None:
    def work() -> tuple[Received, ...] | None:
        if not has_many_users():
            return None
        with new_world() as world:
            server = MailServer(world.tools, world.stranger, FOLDER / "stranger", (STRANGER_DOMAIN,), world.certificate)
            server.start()
            try:
                with world.user.entered(), smtplib.SMTP(str(world.stranger.ipv4), 25, "user.example") as dialogue:
                    recipients = ["b@elsewhere.example", "b@stranger.example"]
                    refused = dialogue.sendmail("a@user.example", recipients, b"Subject: kept\r\n\r\n.\xff\r\n")
                assert [(name, reply[0]) for name, reply in refused.items()] == [("b@elsewhere.example", 554)]
                wait_for("the message", lambda: Seen(bool(server.received()), server.log()), within_s=20)
                server.stop()
                with pytest.raises(ConnectionRefusedError):
                    world.user.connect(world.stranger.ipv4, 25, within_s=5)
                server.start()
                return server.received()
            finally:
                server.stop()

    received = inside(work)
    if received is None:
        pytest.skip("this account may play one user only")
    (one,) = received
    assert (one.sender, one.recipient) == ("a@user.example", "b@stranger.example")
    assert one.client_address == "198.19.2.77"
    assert one.raw == b"Subject: kept\n\n.\xff\n"


def test_the_judge_passes_what_is_ours_and_nothing_else(
    new_world: Callable[[], World], topology: Topology, secrets: Secrets
) -> None:
    sender = topology.mail.mailboxes[0].address
    domain = sender.partition("@")[2]
    content = letter(sender, "someone@stranger.example", "judged", "Hear, hear.\n").as_bytes()
    key = secrets.dkim[(domain, "dkim")].encode()
    signed = dkim.sign(content, b"dkim", domain.encode(), key, include_headers=[b"from", b"subject"]) + content
    ours = str(topology.proxy.ipv4.ip)

    def received(raw: bytes, address: str) -> Received:
        return Received(raw, sender, "someone@stranger.example", address, topology.proxy.hostname, None, "")

    def work() -> list[Verdict]:
        with new_world() as world:
            return [
                judge(received(raw, address), world.stranger)
                for raw, address in (
                    (signed, ours),
                    (signed.replace(b"Hear, hear", b"Hush, hush"), ours),
                    (signed, "198.19.2.77"),
                    (content, "198.19.2.77"),
                )
            ]

    verdicts = [(one.spf, one.dkim, one.dmarc) for one in inside(work)]
    assert verdicts == [
        ("pass", "pass", "pass"),
        ("pass", "fail", "pass"),
        ("fail", "pass", "pass"),
        ("fail", "none", "fail"),
    ]


def test_machines_of_an_earlier_run_find_their_routers_at_the_hardware_addresses_that_they_remember(
    new_world: Callable[[], World],
) -> None:
    def work() -> tuple[list[str], tuple[str, ...]]:
        with new_world() as world:
            seen = []
            for host, bridge in zip((world.internet, world.home), BRIDGES, strict=True):
                with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                    answer = fcntl.ioctl(any_socket, SIOCGIFHWADDR, bridge.encode().ljust(40, b"\0"))
                seen.append(answer[18:24].hex(":"))
            return seen, world.routers

    seen, told = inside(work)
    assert seen == list(told)
