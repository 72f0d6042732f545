"""Which running machines can become a proxy, and what is said of the others: everything at once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.commands.takeover import is_running_from, same_disk
from imagebuilder.errors import ImagebuilderError
from imagebuilder.shipping.disks import parsed
from imagebuilder.shipping.takeover.facts import script
from imagebuilder.shipping.takeover.preflight import UnfitError, Way, judged
from tests.unit.takeovers import LOOPBACK, STATIC, address, card, lsblk, proxy, stock, wanted


def places(**about: str) -> dict[str, str]:
    """Return the problems of a machine, by place."""
    return {problem.place: problem.message for problem in judged(stock(**about), wanted()).problems}


def test_an_ordinary_debian_of_1_gb_can_be_taken_over() -> None:
    judgement = judged(stock(), wanted())

    assert judgement.problems == ()
    assert judgement.disk is not None
    assert str(judgement.disk.path) == "/dev/vda"
    assert judgement.remarks == ()
    assert not judgement.carries_network


SMALL = "MemTotal: 490000 kB\nMemAvailable: 400000 kB"
FULL = "MemTotal: 989184 kB\nMemAvailable: 90000 kB"
IN_THE_WAY = (
    ("architecture", "aarch64", "architecture", "it is aarch64; the images are for x86_64"),
    ("user", "1000", "rights", "the login is that of user 1000; it takes root"),
    ("container", "lxc", "virtualisation", "it is a container (lxc): it has no kernel of its own to replace"),
    ("memory", SMALL, "memory", "it has 479 MiB; it takes a machine of 1 GB"),
    ("memory", FULL, "memory", "88 MiB are free, 250 are needed: stop something"),
    ("secure_boot", "   1", "firmware", "Secure Boot is on, and the image is not signed"),
    ("missing", "tar", "programs", "it lacks tar"),
    (
        "disks",
        lsblk("vda", size=10**9),
        "disk",
        "/dev/vda: it holds 1,000,000,000 bytes, the system needs 3,000,000,000",
    ),
    ("disks", "", "disk", "there is none"),
    ("drivers", "eth0 r8169", "network", "eth0 is driven by r8169, which the image's kernel doesn't have"),
    ("drivers", "vda mmc-block", "disk", "vda is driven by mmc_block, which the image's kernel doesn't have"),
    ("addresses", "", "network", "it has no default route, or its program ip prints no JSON (iproute2 before 4.13)"),
)


@pytest.mark.parametrize(("about", "said", "place", "message"), IN_THE_WAY)
def test_what_is_in_the_way_is_named(about: str, said: str, place: str, message: str) -> None:
    found = places(**{about: said})

    assert list(found) == [place]
    assert found[place].startswith(message)


WITHOUT_KEXEC = (
    ("kexec", "", "its kernel was built without it"),
    ("kexec_disabled", "1", "it is switched off until the next start (kernel.kexec_load_disabled is 1)"),
    ("lockdown", "none [integrity] confidentiality", "its kernel is locked down (integrity)"),
)


@pytest.mark.parametrize(("about", "said", "why"), WITHOUT_KEXEC)
def test_without_kexec_a_machine_is_left_by_soft_reboot_if_its_systemd_can(about: str, said: str, why: str) -> None:
    facts = stock(**{about: said})
    judgement = judged(facts, wanted())

    assert (judgement.problems, judgement.way) == ((), Way.SOFT_REBOOT)
    assert judgement.remarks == (
        f"kexec: {why}; the system is left by soft-reboot, and its kernel stays until the new one starts",
    )
    in_the_way = {
        "a soft-reboot in its place takes systemd 254: there is 252": replace(facts, systemd=252),
        "a soft-reboot in its place takes systemd 254: there is none": replace(facts, systemd=0),
        "SELinux is in the way of a soft-reboot in its place: setenforce 0": replace(facts, enforcing=True),
    }
    for reason, other in in_the_way.items():
        (problem,) = judged(other, wanted()).problems
        assert (problem.place, problem.message) == ("kexec", f"{why}, and {reason}")


def test_a_machine_with_kexec_is_left_by_it_whatever_else_it_has() -> None:
    for further in ({}, {"systemd": ""}, {"systemd": "Version=252-46.el9"}, {"selinux": "1"}):
        judgement = judged(stock(**further), wanted())
        assert (judgement.problems, judgement.remarks, judgement.way) == ((), (), Way.KEXEC)


@pytest.mark.parametrize(
    ("said", "version"),
    [("Version=257.9-1~deb13u1", 257), ("Version=255.4-1ubuntu8.10", 255), ("Version=252-46.el9", 252), ("", 0)],
)
def test_the_version_of_systemd_is_understood_as_distributions_write_it(said: str, version: int) -> None:
    assert stock(systemd=said).systemd == version


def test_a_soft_reboot_takes_the_memory_of_the_unpacked_installer() -> None:
    def memory(available_mib: int) -> str:
        return f"MemTotal: 989184 kB\nMemAvailable: {available_mib * 1024} kB"

    assert places(memory=memory(200)) == {"memory": "200 MiB are free, 250 are needed: stop something"}
    assert places(memory=memory(200), kexec="") == {}
    assert places(memory=memory(190), kexec="") == {"memory": "190 MiB are free, 193 are needed: stop something"}


def test_what_the_old_kernel_keeps_is_in_the_way_of_a_soft_reboot_alone() -> None:
    volumes = json.loads(lsblk("vda"))
    (partition,) = volumes["blockdevices"][0]["children"]
    partition["children"] = [{**partition, "path": "/dev/mapper/vg-root", "type": "lvm", "children": []}]

    assert places(disks=json.dumps(volumes)) == {}
    assert places(disks=json.dumps(volumes), kexec="") == {"disk": "/dev/vda: it is in use by /dev/mapper/vg-root"}


def test_everything_in_the_way_is_told_at_once() -> None:
    facts = stock(architecture="i686", user="1000", kexec="", systemd="", disks="", routes="[]", routes6="[]")
    problems = judged(facts, wanted()).problems

    assert [problem.place for problem in problems] == ["architecture", "rights", "kexec", "disk", "network"]
    assert str(UnfitError("root@vps", problems)).startswith(
        "root@vps can't be taken over, 5 things are in the way:\n  architecture: it is i686"
    )


def test_of_several_disks_one_has_to_be_named() -> None:
    several = stock(disks=lsblk("vda", "vdb"))

    (problem,) = judged(several, wanted()).problems
    assert problem.message.endswith("name one")
    judgement = judged(several, wanted(proxy=proxy(boot_disk="/dev/vdb")))
    assert judgement.problems == ()
    assert judgement.disk is not None
    assert judgement.disk.name == "vdb"
    (problem,) = judged(several, wanted(proxy=proxy(boot_disk="/dev/sda"))).problems
    assert problem.message == "there is no /dev/sda"


def test_settings_that_differ_from_the_topology_are_told_before_anything_happens() -> None:
    other = stock(addresses=json.dumps([LOOPBACK, card(address("198.18.0.10", 32), address("2001:2:0:1::10", 64))]))

    (problem,) = judged(other, wanted()).problems
    assert problem.message == (
        "proxy.ipv4 is 198.18.0.10/24, and the machine has 198.18.0.10/32: correct the topology, or --keep-network"
    )
    judgement = judged(other, wanted(keep_network=True))
    assert (judgement.problems, judgement.carries_network) == ((), True)


def test_an_address_that_nobody_will_look_for_is_remarked_upon() -> None:
    other = stock(addresses=json.dumps([LOOPBACK, card(address("203.0.113.5", 24), address("2001:2:0:1::10", 64))]))

    judgement = judged(other, wanted(keep_network=True))

    assert judgement.remarks == (
        "proxy.ipv4 is 198.18.0.10/24, and the machine has 203.0.113.5/24",
        "DNS and the client will look for the proxy at the topology's address",
        "the machine's network settings are carried over",
    )


def test_a_topology_that_trusts_in_dhcp_gets_the_settings_of_a_machine_without() -> None:
    trusting = proxy(dhcp=True, ipv4_gateway=None, ipv6_gateway=None)

    assert judged(stock(), wanted(proxy=trusting)).carries_network
    handed_out = card(address("198.18.0.10", 24, dynamic=True), address("2001:2:0:1::10", 64, dynamic=True))
    facts = stock(
        addresses=json.dumps([LOOPBACK, handed_out]),
        routes6=json.dumps([{"dst": "default", "gateway": "fe80::1", "dev": "eth0", "protocol": "ra"}]),
    )
    judgement = judged(facts, wanted(proxy=trusting))
    assert (judgement.problems, judgement.remarks, judgement.carries_network) == ((), (), False)


def test_a_closed_port_25_is_a_remark_and_no_obstacle() -> None:
    judgement = judged(stock(port_25="closed"), wanted())

    assert judgement.problems == ()
    assert "port 25 is not reached from there" in judgement.remarks[0]
    assert judged(stock(port_25="open"), wanted()).remarks == ()


def test_what_is_tried_by_port_25_is_a_host_and_no_command() -> None:
    assert "/dev/tcp" not in script()
    assert "mx.example.net" in script(port_25="mx.example.net")
    with pytest.raises(ImagebuilderError, match="is no host"):
        script(port_25="$(reboot)")


def test_a_card_that_is_no_hardware_is_refused_but_for_a_bridge_over_one() -> None:
    vlan = card(*STATIC["addr_info"], name="eth0.7", linkinfo={"info_kind": "vlan"})
    routes = json.dumps([{"dst": "default", "gateway": "198.18.0.1", "dev": "eth0.7"}])
    assert places(addresses=json.dumps([vlan, card()]), routes=routes, routes6="[]") == {
        "network": "its way to the Internet is eth0.7, which is no network card (vlan)"
    }

    bridge = card(*STATIC["addr_info"], name="br0", linkinfo={"info_kind": "bridge"})
    routes = json.dumps([{"dst": "default", "gateway": "198.18.0.1", "dev": "br0"}])
    routes6 = json.dumps([{"dst": "default", "gateway": "2001:2:0:1::1", "dev": "br0"}])
    tap = card(name="tap0", master="br0", linkinfo={"info_kind": "tun"})
    found = places(addresses=json.dumps([bridge, card(master="br0"), tap]), routes=routes, routes6=routes6)
    assert found == {}
    found = places(addresses=json.dumps([bridge, card(master="br0")]), routes=routes, routes6=routes6, kexec="")
    assert found == {"network": "its addresses are those of br0, which only kexec ends"}


def test_a_machine_runs_from_a_disk_when_its_root_is_there() -> None:
    assert is_running_from(stock().disks)
    assert not is_running_from(parsed(lsblk("vda").replace('"/"', '"/mnt"')))
    assert is_running_from(stock().disks, Path("/dev/vda"))
    assert not is_running_from(stock().disks, Path("/dev/vdb"))  # a rescue system on a disk of its own
    assert not is_running_from(parsed(lsblk("nbd0")))
    assert not is_running_from(parsed(lsblk("loop0").replace('"disk"', '"loop"').replace('"part"', '"loop"')))


def test_another_disk_than_the_one_that_was_judged_is_not_written_to() -> None:
    before = stock().disks[0]

    assert same_disk(stock().disks, before) == before
    for other in (lsblk("vdb"), lsblk("vda", size=20 * 10**9)):
        with pytest.raises(ImagebuilderError, match="does not see /dev/vda as it was"):
            same_disk(parsed(other), before)
