"""What breaks inside comes back by itself, and no mail that was accepted is lost by it."""

# ruff: noqa: D103 (the name of a test is its sentence)

import smtplib
from dataclasses import replace

import pytest

from imagebuilder.services.postfix import RELAY_PORT
from imagebuilder.topology import Role, Topology
from imagebuilder.vm import faults
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import Person, Stranger, letter
from imagebuilder.vm.qemu import Firmware
from imagebuilder.vm.world import World

SERVICES = {
    Role.PROXY: ("haraka-in", "haraka-out", "haproxy", "unbound"),
    Role.CLIENT: ("postfix", "dovecot", "rspamd", "valkey-server", "unbound"),
}
IN_QUEUE = "ls /var/lib/haraka-out/queue | grep -v '^__tmp__'"
"""Succeeds when haraka-out has taken a message; what has the other name is still being written, and not accepted."""


def test_killed_services_are_back_soon_and_mail_flows_both_ways(
    pair: Pair, stranger: Stranger, alice: Person, topology: Topology
) -> None:
    for role, machine in pair.machines.items():
        machine.succeed(f"systemctl kill --kill-whom=all --signal=KILL {' '.join(SERVICES[role])}")

    for role, machine in pair.machines.items():
        for service in SERVICES[role]:
            machine.wait_until_succeeds(
                f"test $(systemctl show -P NRestarts {service}) -gt 0 && systemctl is-active {service}", within_s=20
            )
    stranger.send_persistently(alice.address, "after the end", "In.\n")
    alice.receive("after the end")
    # mail that finds nobody there comes back in a minute, which nobody needs to wait for here
    pair.proxy.wait_for_open_port(RELAY_PORT, address=str(topology.tunnel.proxy_address))
    alice.send(stranger.address, "after the end, out", "Out.\n")
    stranger.receive("after the end, out")

    assert alice.count("after the end") == 1
    for machine in pair.machines.values():
        assert machine.failed_units() == ""


@pytest.mark.long
def test_after_a_power_cut_both_images_boot_by_bios_too_and_no_mail_is_lost_or_there_twice(
    stranger: Stranger, alice: Person, proxy: Machine, client: Machine
) -> None:
    stranger.server.stop()
    try:
        alice.send(stranger.address, "before the cut", "Still there?\n")
        proxy.wait_until_succeeds(IN_QUEUE, within_s=20)
        # Who goes down before he noted that a message is accepted offers it again, as SMTP wants it.
        client.wait_until_succeeds('test -z "$(postqueue -j)"', within_s=20)
        client.succeed("echo kept >/var/bed-kept; sync")
        client.kill()
        reply, waited_s = stranger.timed_offer(alice.address)
        proxy.kill()
    finally:
        stranger.server.start()
    for machine in (client, proxy):  # the one that takes longer first
        machine.start(Firmware.BIOS)
    for machine in (client, proxy):
        machine.wait_for_boot()
        machine.succeed("test ! -e /sys/firmware/efi")

    assert reply.startswith("4"), "a stranger is put off while the client is off"
    assert waited_s < stranger.patience.seconds(3)
    assert client.succeed("cat /var/bed-kept") == "kept\n"
    stranger.receive("before the cut", within_s=90)
    assert [each.subject for each in stranger.server.received()].count("before the cut") == 1
    stranger.send_persistently(alice.address, "second try", "Here again.\n")
    assert alice.receive("second try").text == "Here again.\n"
    assert alice.count("second try") == 1


def test_while_names_can_not_be_looked_up_mail_waits_and_then_goes_out(
    stranger: Stranger, alice: Person, proxy: Machine, world: World, topology: Topology
) -> None:
    proxy.succeed("systemctl restart unbound")  # what it knows already would do
    world.dns.go_down()
    replace(alice, server=str(topology.proxy.ipv4.ip)).send(stranger.address, "no names today", "Later.\n")
    proxy.wait_until_succeeds(IN_QUEUE, within_s=60)
    assert not any(each.subject == "no names today" for each in stranger.server.received())

    world.dns.mend()
    faults.jump(proxy, 3600)  # the next try is a minute away, or ten
    proxy.succeed("systemctl restart haraka-out")

    stranger.receive("no names today")


def test_a_full_disk_at_home_puts_strangers_off_and_loses_nothing(
    stranger: Stranger, alice: Person, client: Machine
) -> None:
    message = letter(stranger.address, alice.address, "for a full disk", ("x" * 70 + "\n") * 3000)
    faults.full_disk(client)
    with stranger.dialogue() as dialogue, pytest.raises(smtplib.SMTPException) as refusal:
        dialogue.sendmail(stranger.address, [alice.address], message.as_bytes())
    assert 400 <= code_of(refusal.value) < 500, refusal.value

    faults.empty_disk(client)
    stranger.send_persistently(alice.address, "for a full disk", "Room again.\n")

    assert alice.receive("for a full disk").text == "Room again.\n"
    assert alice.count("for a full disk") == 1


def code_of(error: smtplib.SMTPException) -> int:
    """Return the code by which the server refused."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return next(iter(error.recipients.values()))[0]
    assert isinstance(error, smtplib.SMTPResponseException)
    return error.smtp_code


def test_a_full_disk_of_the_proxy_keeps_users_mail_at_home_until_there_is_room(
    stranger: Stranger, alice: Person, proxy: Machine, client: Machine
) -> None:
    faults.full_disk(proxy)
    alice.send(stranger.address, "too much for the proxy", "Wait.\n")
    client.wait_until_succeeds("postqueue -j | grep -F '4.3.0'", within_s=30)
    stranger.send(alice.address, "past the full disk", "In all the same.\n")
    alice.receive("past the full disk")

    faults.empty_disk(proxy)
    client.succeed("postqueue -f")

    stranger.receive("too much for the proxy")
