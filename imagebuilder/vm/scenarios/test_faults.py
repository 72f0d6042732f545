"""What goes wrong from outside does go wrong, and the tunnel and the mail come back afterwards."""

# ruff: noqa: D103 (the name of a test is its sentence)

import time

import pytest

from imagebuilder.dns.records import Record
from imagebuilder.topology import Topology
from imagebuilder.vm import faults
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.world import World


def through_the_tunnel(topology: Topology, seconds: int = 5) -> str:
    """Return a script for the proxy that succeeds when the client's mail store answers."""
    # timeout's own status is that of a script that was killed, which is no answer either way
    return f"timeout {seconds} bash -c 'exec 5<>/dev/tcp/{topology.tunnel.client_address}/10993' || false"


@pytest.mark.settled
def test_a_frozen_client_is_silent_and_answers_again_when_it_thaws(
    proxy: Machine, client: Machine, topology: Topology
) -> None:
    client.freeze()
    proxy.fail(through_the_tunnel(topology))
    client.unfreeze()
    proxy.wait_until_succeeds(through_the_tunnel(topology), within_s=20)


@pytest.mark.settled
def test_the_tunnel_comes_back_when_the_cable_at_home_is_plugged_in_again(
    proxy: Machine, world: World, topology: Topology
) -> None:
    world.links["client"].down()
    proxy.fail(through_the_tunnel(topology))
    world.links["client"].up()
    proxy.wait_until_succeeds(through_the_tunnel(topology), within_s=20)


@pytest.mark.settled
def test_mail_arrives_over_a_bad_line(world: World, pair: Pair, stranger: Stranger, alice: Person) -> None:
    world.links["line"].loss(5)
    faults.delay(pair.client, world.links["client"], 100)

    stranger.send_persistently(alice.address, "from far away", "Slowly.\n")

    assert alice.receive("from far away").text == "Slowly.\n"


@pytest.mark.settled
def test_a_delayed_cable_delays_every_answer(pair: Pair, world: World, topology: Topology) -> None:
    script = f"start=${{EPOCHREALTIME/./}}; {through_the_tunnel(topology)}; echo $(( ${{EPOCHREALTIME/./}} - start ))"
    before = min(int(pair.proxy.succeed(script)) for _ in range(3))

    faults.delay(pair.client, world.links["client"], 300)

    assert min(int(pair.proxy.succeed(script)) for _ in range(3)) > before + 150_000


def test_a_jumped_clock_is_wrong_by_as_much(client: Machine) -> None:
    faults.jump(client, 3 * 86400)

    assert 3 * 86400 - 60 < float(client.succeed("date +%s")) - time.time() < 3 * 86400 + 60


@pytest.mark.complaints("disk error", "file system error")
def test_disks_get_slow_fail_and_fill_and_recover(pair: Pair) -> None:
    write = "dd if=/dev/zero of=/var/bed-written bs=1M count=4 oflag=direct status=none"
    read = "dd if=/dev/vda of=/dev/null bs=4K count=1 iflag=direct skip=$(( RANDOM % 1000 )) status=none"
    for machine in pair.machines.values():
        faults.slow_disk(machine, 1_000_000)
        started = time.monotonic()
        machine.succeed(write)
        assert time.monotonic() - started > 2.5
        faults.slow_disk(machine, 0)

        machine.succeed(read)
        faults.failing_disk(machine, "read")
        assert "error" in machine.fail(read).lower()
        faults.failing_disk(machine)
        machine.succeed(read)

        faults.full_disk(machine)
        assert "No space left" in machine.fail("head -c 1M /dev/zero >/var/bed-more")
        faults.empty_disk(machine)
        machine.succeed("head -c 1M /dev/zero >/var/bed-more")


def test_a_resolver_believes_no_liar_and_tells_the_truth_afterwards(proxy: Machine, world: World) -> None:
    world.dns.lie([Record("mx.stranger.example.", "A", "192.0.2.66", "a lie")])
    assert "192.0.2.66" not in proxy.execute("getent ahostsv4 mx.stranger.example").text
    world.mend()
    assert str(world.user.ipv4) in proxy.wait_until_succeeds("getent ahostsv4 roaming.user.example", within_s=60)
