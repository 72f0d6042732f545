"""What other domains demand of the way to them is kept, by DANE or MTA-STS."""

# ruff: noqa: D103 (the name of a test is its sentence)

from collections.abc import Iterator

import pytest

from imagebuilder.vm.authority import Issuer
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.web import web_site
from imagebuilder.vm.world import STRICT_DOMAIN, World, stranger_tlsa

POLICY = f"version: STSv1\nmode: enforce\nmx: mx.{STRICT_DOMAIN}\nmax_age: 86400\n"
PUT_OFF = "ls /var/lib/haraka-out/queue | grep -E '^[0-9]+_[0-9]+_[1-9]'"
"""Lists mail that was tried and failed: the names of Haraka's queue count the attempts."""


@pytest.fixture
def policy(world: World, stranger: Stranger) -> Iterator[None]:
    """Serve the policy of the stranger's strict domain."""
    own = world.issuer.certify([f"mta-sts.{STRICT_DOMAIN}"])
    with web_site(stranger.host, own, {"/.well-known/mta-sts.txt": POLICY}):
        yield


def test_mail_to_a_domain_whose_tlsa_record_names_another_key_waits_and_is_not_shown_to_the_server(
    alice: Person, stranger: Stranger, proxy: Machine, world: World
) -> None:
    world.dns.change([stranger_tlsa(Issuer.new().certify(["mx.stranger.example"]))])

    alice.send(stranger.address, "for the right server", "Is it you?\n")

    proxy.wait_until_succeeds(PUT_OFF, within_s=30)
    assert "for the right server" not in {each.subject for each in stranger.server.received()}


@pytest.mark.usefixtures("policy")
def test_mail_goes_where_an_mta_sts_policy_says(alice: Person, stranger: Stranger, proxy: Machine) -> None:
    alice.send(f"someone@{STRICT_DOMAIN}", "by the rules", "As you wish.\n")

    assert stranger.receive("by the rules").tls is not None
    assert STRICT_DOMAIN in proxy.succeed("cat /var/lib/haraka-out/policies.json")
