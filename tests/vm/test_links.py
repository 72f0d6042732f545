"""Faults of links and names bite, and mending heals them; no machine is needed to see that."""

import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

from imagebuilder.dns.records import Record
from imagebuilder.vm.host import Host
from imagebuilder.vm.identity import Identity
from imagebuilder.vm.links import Link, NoNetemError
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.world import World
from tests.vm.test_world import validated

pytestmark = pytest.mark.vm

IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2  # linux/in.h


def users_cable(world: World) -> Link:
    """Return the cable between the Internet and the roaming user."""
    return Link(world.tools, "internet", "to-user")


def datagrams(world: World, count: int) -> int:
    """Return how many of *count* datagrams reach the user from the stranger."""
    with world.user.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 9))
        receiver.settimeout(0.5)
        with world.stranger.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                sender.sendto(b"x", (str(world.user.ipv4), 9))
        arrived = 0
        try:
            while arrived < count:
                receiver.recv(10)
                arrived += 1
        except TimeoutError:
            pass
        return arrived


def seconds_for(world: World, octets: int, sender: Host, receiver: Host) -> float:
    """Return how long *octets* take from one host to the other."""
    with receiver.listen(9) as listener, sender.connect(receiver.ipv4, 9) as out:
        listener.settimeout(30)
        taken, _ = listener.accept()
        taken.settimeout(30)
        with taken:
            started = time.monotonic()
            out.sendall(bytes(octets))
            out.shutdown(socket.SHUT_WR)
            while taken.recv(1 << 16):
                pass
            return time.monotonic() - started


def test_a_link_loses_as_much_as_it_is_told_to(new_world: Callable[[], World]) -> None:
    def work() -> list[int]:
        with new_world() as world:
            cable, seen = users_cable(world), []
            for percent in (0.0, 30.0, 100.0):
                cable.loss(percent)
                seen.append(datagrams(world, 200))
            cable.mend()
            return [*seen, datagrams(world, 200)]

    none, some, everything, mended = inside(work)
    assert (none, everything, mended) == (200, 0, 200)
    assert 100 < some < 175  # one direction: 140 expected, deviation 6.5


def test_a_link_lets_one_version_of_ip_pass(new_world: Callable[[], World]) -> None:
    def work() -> list[list[bool]]:
        with new_world() as world, world.stranger.listen(25):
            cable, seen = users_cable(world), []
            for version in (4, 6, None):
                cable.only(version)
                seen.append([answers(world, address) for address in (world.stranger.ipv4, world.stranger.ipv6)])
            return seen

    assert inside(work) == [[True, False], [False, True], [True, True]]


def answers(world: World, address: object) -> bool:
    """Return whether the user gets a connection to *address*."""
    try:
        world.user.connect(str(address), 25, within_s=1).close()
    except OSError:
        return False
    return True


def test_a_link_swallows_large_packets_and_what_comes_from_a_dead_port(new_world: Callable[[], World]) -> None:
    def sent(world: World, octets: int, port: int) -> bool:
        """Return whether a datagram of *octets*, headers included, gets from *port* of the user to the stranger."""
        with world.stranger.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("", 9))
            receiver.settimeout(0.5)
            with world.user.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("", port))
                sender.sendto(bytes(octets - 28), (str(world.stranger.ipv4), 9))
            try:
                return bool(receiver.recv(2000))
            except TimeoutError:
                return False

    def work() -> list[bool]:
        with new_world() as world:
            cable = users_cable(world)
            cable.swallow(1360)
            cable.lose_udp(4711)
            return [sent(world, 1360, 4712), sent(world, 1400, 4712), sent(world, 1000, 4711)]

    assert inside(work) == [True, False, False]


def test_an_unplugged_cable_is_silent_until_it_is_plugged_in(new_world: Callable[[], World]) -> None:
    def work() -> None:
        with new_world() as world, world.stranger.listen(25):
            cable = users_cable(world)
            cable.down()
            with pytest.raises(TimeoutError):
                world.user.connect(world.stranger.ipv4, 25, within_s=1)
            cable.up()
            world.user.connect(world.stranger.ipv4, 25, within_s=5).close()

    inside(work)


@pytest.mark.parametrize("towards", ["user", "stranger"])
def test_a_narrow_link_lets_no_more_through_in_either_direction(new_world: Callable[[], World], towards: str) -> None:
    def work() -> list[float]:
        with new_world() as world:
            ends = (world.stranger, world.user) if towards == "user" else (world.user, world.stranger)
            cable = users_cable(world)
            wide = seconds_for(world, 400_000, *ends)
            cable.bandwidth(800)
            narrow = seconds_for(world, 400_000, *ends)
            cable.mend()
            return [wide, narrow, seconds_for(world, 400_000, *ends)]

    wide, narrow, mended = inside(work)
    assert wide < 1
    assert mended < 1
    assert narrow > 1.5  # 400 kB at 100 kB/s, less the second's worth that passes ahead


def test_a_link_delays_where_the_kernel_can_and_says_so_where_it_can_not(new_world: Callable[[], World]) -> None:
    def work() -> float | None:
        with new_world() as world, world.stranger.listen(25):
            try:
                users_cable(world).latency(200)
            except NoNetemError:
                return None
            started = time.monotonic()
            world.user.connect(world.stranger.ipv4, 25, within_s=5).close()
            return time.monotonic() - started

    waited = inside(work)
    if waited is None:
        pytest.skip("this kernel has no netem; machines' cables are delayed by QEMU, see the scenarios")
    assert waited > 0.2


def test_a_small_mtu_is_noticed_by_those_who_forbid_fragments(new_world: Callable[[], World]) -> None:
    def work() -> list[int]:
        with new_world() as world:
            world.line.mtu(1300)
            with world.lan.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
                sender.connect((str(world.stranger.ipv4), 9))
                errors = []
                for size in (1400, 1400, 1200):
                    try:
                        sender.send(bytes(size))
                    except OSError as error:
                        errors.append(error.errno or 0)
                    time.sleep(0.2)
                return errors

    assert errno.EMSGSIZE in inside(work)


def test_the_home_line_changes_its_address_and_gets_the_first_one_back(new_world: Callable[[], World]) -> None:
    def work() -> list[str]:
        with new_world() as world, world.stranger.listen(25) as listener:
            listener.settimeout(10)

            def seen() -> str:
                with world.lan.connect(world.stranger.ipv4, 25):
                    return str(listener.accept()[1][0]).removeprefix("::ffff:")

            before, told, after = seen(), str(world.line.change_address()), seen()
            world.mend()
            return [before, told, after, seen(), str(world.home.ipv4)]

    before, told, after, mended, home = inside(work)
    assert before == mended == home
    assert after == told != home


def test_a_rebinding_router_gives_a_connection_another_port(new_world: Callable[[], World]) -> None:
    def work() -> list[int]:
        with new_world() as world:
            with world.stranger.entered():
                receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with world.lan.entered():
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with receiver, sender:
                receiver.bind(("", 9))
                receiver.settimeout(5)
                ports = []
                for _ in range(2):
                    sender.sendto(b"x", (str(world.stranger.ipv4), 9))
                    ports.append(receiver.recvfrom(10)[1][1])
                world.line.rebind()
                sender.sendto(b"x", (str(world.stranger.ipv4), 9))
                return [*ports, receiver.recvfrom(10)[1][1]]

    first, second, rebound = inside(work)
    assert first == second != rebound


def test_names_can_be_switched_off_and_on(new_world: Callable[[], World]) -> None:
    def work() -> None:
        with new_world() as world:
            query = dns.message.make_query("mail.example.org", "A")
            world.dns.go_down()
            with world.user.entered(), pytest.raises((OSError, dns.exception.Timeout)):
                dns.query.udp(query, str(world.internet.ipv4), timeout=1)
            world.mend()
            with world.user.entered():
                assert dns.query.udp(query, str(world.internet.ipv4), timeout=5).answer

    inside(work)


def test_a_lie_is_told_and_does_not_validate_and_the_truth_comes_back(new_world: Callable[[], World]) -> None:
    def work() -> list[str]:
        with new_world() as world:
            anchor = world.dns.trust_anchor
            world.dns.lie([Record("mail.example.org.", "A", "192.0.2.66", "a lie")])
            with world.user.entered():
                told = socket.gethostbyname("mail.example.org")
            with pytest.raises(dns.exception.ValidationFailure):
                validated(world, "mail.example.org", "A", anchor)
            world.mend()
            return [told, *validated(world, "mail.example.org", "A", anchor)]

    told, truth = inside(work)
    assert told == "192.0.2.66"
    assert truth == "198.18.0.10"


def test_the_worlds_of_one_identity_sign_their_names_with_the_same_key(
    new_world: Callable[[], World], tmp_path: Path
) -> None:
    def work() -> str:
        world = new_world()
        world.identity = Identity(tmp_path / "identity")
        with world:
            return world.dns.trust_anchor

    assert inside(work) == inside(work)
