"""What other domains demand of the way to them is kept, by DANE or MTA-STS, and they are told how it went."""

# ruff: noqa: D103 (the name of a test is its sentence)

import gzip
import json
from collections.abc import Iterator

import pytest

from imagebuilder.dns.records import Record
from imagebuilder.vm.authority import Issuer
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.mta import Received
from imagebuilder.vm.names import STRANGER_DOMAIN, STS_DOMAIN, stranger_tlsa
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.waiting import Seen, wait_for
from imagebuilder.vm.web import web_site
from imagebuilder.vm.world import World

POLICY = f"version: STSv1\nmode: enforce\nmx: mx.{STS_DOMAIN}\nmax_age: 86400\n"
PUT_OFF = "ls /var/lib/haraka-out/queue | grep -E '^[0-9]+_[0-9]+_[1-9]'"
"""Lists mail that was tried and failed: the names of Haraka's queue count the attempts."""


@pytest.fixture
def policy(world: World, stranger: Stranger) -> Iterator[None]:
    """Serve the policy of the stranger's strict domain."""
    own = world.issuer.certify([f"mta-sts.{STS_DOMAIN}"])
    with web_site(stranger.host, own, {"/.well-known/mta-sts.txt": POLICY}):
        yield


def test_mail_to_a_domain_whose_tlsa_record_names_another_key_waits_and_is_not_shown_to_the_server(
    alice: Person, stranger: Stranger, proxy: Machine, world: World
) -> None:
    world.dns.change([stranger_tlsa(Issuer.new().certify(["mx.stranger.example"]))])

    alice.send(stranger.address, "for the right server", "Is it you?\n")

    proxy.wait_until_succeeds(PUT_OFF, within_s=30)
    assert "for the right server" not in {each.subject for each in stranger.server.received()}


@pytest.mark.settled
@pytest.mark.usefixtures("policy")
def test_mail_goes_where_an_mta_sts_policy_says(alice: Person, stranger: Stranger, proxy: Machine) -> None:
    alice.send(f"someone@{STS_DOMAIN}", "by the rules", "As you wish.\n")

    assert stranger.receive("by the rules").tls is not None
    assert STS_DOMAIN in proxy.succeed("cat /var/lib/haraka-out/policies.json")


@pytest.mark.usefixtures("policy")
def test_mail_that_dns_leads_to_a_server_outside_the_mta_sts_policy_waits(
    alice: Person, stranger: Stranger, proxy: Machine, world: World
) -> None:
    other = f"other.{STS_DOMAIN}."  # without a TLSA record, which would count more than the policy
    why = "where an attacker would lead it"
    address = str(stranger.host.ipv4)
    world.dns.change([Record(f"{STS_DOMAIN}.", "MX", f"10 {other}", why), Record(other, "A", address, why)])

    alice.send(f"someone@{STS_DOMAIN}", "rerouted", "Where does this go?\n")

    proxy.wait_until_succeeds(PUT_OFF, within_s=30)
    assert "rerouted" not in {each.subject for each in stranger.server.received()}


def test_a_domain_that_asks_for_it_is_told_how_tls_went(alice: Person, stranger: Stranger, client: Machine) -> None:
    alice.send(stranger.address, "to be counted", "One.\n")
    stranger.receive("to be counted")

    # of today, not of yesterday as by night: a clock that is a day ahead would sign with tomorrow's date
    today = client.succeed("date --utc +%F").strip()
    line = f"[Service]\nExecStart=\nExecStart=/usr/lib/imagebuilder/tls-report {today}\n"
    client.succeed("mkdir -p /run/systemd/system/tls-report.service.d")
    client.write_file("/run/systemd/system/tls-report.service.d/today.conf", line.encode())
    client.succeed("systemctl daemon-reload && systemctl start tls-report.service", timeout_s=120)

    received = report_to(stranger)
    assert stranger.judge(received).dkim == "pass"
    packed = next(part for part in received.message.walk() if part.get_content_type() == "application/tlsrpt+gzip")
    told = json.loads(gzip.decompress(packed.get_content()))
    (judged,) = told["policies"]
    assert judged["policy"]["policy-type"] == "tlsa"
    assert judged["policy"]["mx-host"] == [f"mx.{STRANGER_DOMAIN}"]
    assert judged["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": 0}


def report_to(stranger: Stranger) -> Received:
    """Return the first report about TLS that his server gets."""
    found: list[Received] = []

    def look() -> Seen:
        arrived = stranger.server.received()
        found.extend(each for each in arrived if each.message["TLS-Report-Domain"] == STRANGER_DOMAIN)
        return Seen(bool(found), f"{len(arrived)} other messages")

    wait_for("a report about TLS at the stranger's", look, within_s=stranger.patience.seconds(60), every_s=0.5)
    return found[0]
