"""What can be reached from where: exactly the open doors of the table, and no other."""

# ruff: noqa: D103 (the name of a test is its sentence)

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.sightings import Doors
from imagebuilder.vm.surroundings import Outside
from imagebuilder.vm.world import PUBLIC_TCP, World

pytestmark = pytest.mark.settled

OPEN_TCP = set(PUBLIC_TCP)


@pytest.mark.gentle
def test_from_the_internet_exactly_the_tables_ports_answer_by_ipv4(
    proxy: Inside, world: Outside, topology: Topology, doors: Doors
) -> None:
    assert doors.tcp(world.stranger, topology.proxy.ipv4.ip, expected=OPEN_TCP) == OPEN_TCP


@pytest.mark.gentle
def test_from_the_internet_exactly_the_tables_ports_answer_by_ipv6(
    proxy: Inside, world: Outside, topology: Topology, doors: Doors
) -> None:
    if topology.proxy.ipv6 is None or world.stranger.ipv6 is None:
        pytest.skip("the topology, or the stranger, has no IPv6")

    assert doors.tcp(world.stranger, topology.proxy.ipv6.ip, expected=OPEN_TCP) == OPEN_TCP


@pytest.mark.gentle
def test_from_the_internet_no_udp_port_of_the_proxy_answers_a_stranger(
    proxy: Inside, world: Outside, topology: Topology, doors: Doors
) -> None:
    assert doors.udp(world.stranger, topology.proxy.ipv4.ip) == set()
    if topology.proxy.ipv6 is not None and world.stranger.ipv6 is not None:
        assert doors.udp(world.stranger, topology.proxy.ipv6.ip) == set()


@pytest.mark.gentle
def test_the_only_udp_door_of_the_proxy_is_the_tunnels(proxy: Inside, topology: Topology) -> None:
    listed = proxy.succeed("ss --udp --listening --numeric --no-header | awk '{print $4}'").split()
    outside = {one.rpartition(":")[2] for one in listed if not one.startswith(("127.", "[::1]"))}

    assert outside <= {str(topology.tunnel.port), "68", "546"}
    assert str(topology.tunnel.port) in outside


def test_from_its_own_lan_no_port_of_the_client_answers(client: Machine, world: World, doors: Doors) -> None:
    address = world.places.client.ipv4.ip
    assert str(address) in client.succeed("ip -4 -brief address")

    assert doors.tcp(world.lan, address) == set()
    assert doors.udp(world.lan, address) == set()


def test_from_the_internet_nothing_at_home_answers(client: Machine, world: World, doors: Doors) -> None:
    assert doors.tcp(world.stranger, world.home.ipv4, ports=range(1, 1025)) == set()
