"""The pure parts of the bed: command lines, addresses, zones, what is read from messages."""

import base64
import ssl
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface
from itertools import pairwise
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.topology import Topology, load_topology
from imagebuilder.vm import agent
from imagebuilder.vm.accelerator import boot_sector, known_accelerators
from imagebuilder.vm.addresses import Addresses, addresses
from imagebuilder.vm.authority import Issuer
from imagebuilder.vm.host import Host
from imagebuilder.vm.mta import as_received
from imagebuilder.vm.nameserver import root_addresses, root_zone
from imagebuilder.vm.pair import trust_credentials
from imagebuilder.vm.people import Person
from imagebuilder.vm.qemu import (
    SMBIOS_BYTES_MAX,
    Acceleration,
    Cable,
    Firmware,
    Hardware,
    Memory,
    Nic,
    mac_address,
    qemu_argv,
    smbios_arguments,
)
from imagebuilder.vm.waiting import ExpectationError, HopelessError, Patience, Seen, hold_alone, wait_for

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"
HARDWARE = Hardware("proxy", Path("/s"), 1024, Acceleration.TCG, Path("/d.qcow2"), variables=Path("/v"))


@pytest.fixture
def topology() -> Topology:
    return load_topology(REFERENCE)


def argv(hardware: Hardware) -> list[str]:
    return qemu_argv(hardware, console=Path("/r/console"), journal=Path("/r/journal"))


def after(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(arguments) if name == option]


def test_uefi_gets_its_own_variables_and_bios_none() -> None:
    assert sum("pflash" in drive for drive in after(argv(HARDWARE), "-drive")) == 2
    assert "if=pflash,format=raw,unit=1,file=/v" in after(argv(HARDWARE), "-drive")
    assert not any("pflash" in drive for drive in after(argv(replace(HARDWARE, firmware=Firmware.BIOS)), "-drive"))


def test_kvm_and_emulation_differ_in_nothing_but_the_processor() -> None:
    emulated, native = argv(HARDWARE), argv(replace(HARDWARE, acceleration=Acceleration.KVM))

    assert {*emulated} ^ {*native} == {"tcg", "qemu64,+rdrand", "1", "kvm", "host", "2"}


def test_a_machine_keeps_its_identity() -> None:
    assert after(argv(HARDWARE), "-uuid") == after(argv(replace(HARDWARE, memory_mib=512)), "-uuid")
    assert after(argv(HARDWARE), "-uuid") != after(argv(replace(HARDWARE, name="client")), "-uuid")
    assert mac_address("proxy").startswith("52:54:00:")
    assert mac_address("proxy") == mac_address("proxy") != mac_address("client")


def test_only_a_resumed_machine_waits_for_its_memory() -> None:
    assert "-incoming" not in argv(HARDWARE)
    resuming = argv(replace(HARDWARE, ram=Path("/r/own")).resuming(Memory(Path("/k/ram"), Path("/k/state"))))
    assert after(resuming, "-incoming") == ["defer"]
    assert "mem-path=/k/ram,share=off,readonly=on" in after(resuming, "-object")[0]


def test_an_emulated_machine_is_given_time_to_find_its_devices() -> None:
    assert not any("cmdline" in told for told in after(argv(HARDWARE), "-smbios"))
    told = after(argv(replace(HARDWARE, boot_deadline_s=600.0)), "-smbios")
    assert any("kernel-cmdline-extra=systemd.default_device_timeout_sec=600 " in one for one in told)


def test_each_cable_ends_in_its_tap() -> None:
    wired = argv(replace(HARDWARE, nics=(Nic("tap-a", "52:54:00:00:00:01"), Nic("tap-b", "52:54:00:00:00:02"))))

    assert [netdev.split(",")[2] for netdev in after(wired, "-netdev")] == ["ifname=tap-a", "ifname=tap-b"]


def test_a_cable_that_is_a_socket_is_named_by_the_open_file() -> None:
    hardware = replace(HARDWARE, nics=(Nic("to-a", "52:54:00:00:00:01", Cable.PACKET),))
    wired = qemu_argv(hardware, console=Path("/c"), journal=Path("/j"), sockets={"to-a": 7})

    assert after(wired, "-netdev") == ["dgram,id=net0,local.type=fd,local.str=7"]


def test_mail_that_can_not_come_is_not_waited_for(topology: Topology) -> None:
    user = Host("user", addresses(topology).user.ipv4.ip)
    trust = ssl.create_default_context()
    person = Person("a@example.org", "", topology, user, Patience(25), trust, missing=lambda: "client is off")

    with pytest.raises(HopelessError, match="'hello' can't pass: client is off"):
        person.receive("hello")


def test_a_lock_that_another_has_is_awaited_and_then_given_up_in_one_sentence(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as ours, (tmp_path / "lock").open("w") as theirs:
        hold_alone(theirs, "the lock", within_s=0)
        with pytest.raises(ImagebuilderError, match="awaited the lock for 0 s; last seen: another run has it"):
            hold_alone(ours, "the lock", within_s=0.1)
        theirs.close()
        hold_alone(ours, "the lock", within_s=0)


def test_credentials_travel_whole() -> None:
    (value,) = after(smbios_arguments({"name": b"any\0bytes, even commas"}), "-smbios")

    kind, content = value.split(",value=io.systemd.credential.binary:name=")
    assert kind == "type=11"
    assert base64.b64decode(content) == b"any\0bytes, even commas"


def test_credentials_that_firmware_would_choke_on_are_refused() -> None:
    with pytest.raises(ImagebuilderError, match="don't fit"):
        smbios_arguments({"name": b"x" * SMBIOS_BYTES_MAX})


def test_what_the_bed_gives_a_machine_fits_by_far() -> None:
    anchor = ". 86400 IN DNSKEY 257 3 13 " + "A" * 88
    total = sum(map(len, smbios_arguments(agent.credentials() | trust_credentials(anchor, Issuer.new().pem))))

    assert total < SMBIOS_BYTES_MAX // 4


def networks(places: Addresses) -> list[str]:
    return [str(place.ipv4.network) for place in (places.stranger, places.user, places.home, places.lan)]


def test_nobody_shares_a_network(topology: Topology) -> None:
    places = addresses(topology)

    assert len({*networks(places), str(topology.proxy.ipv4.network), str(topology.tunnel.network)}) == 6
    assert len({places.lan.ipv4.ip, places.client.ipv4.ip, places.lan.ipv4_gateway}) == 3


def test_the_outside_makes_way_for_the_topologys_own_addresses(topology: Topology) -> None:
    taken = {"ipv4": IPv4Interface("198.19.1.25/24"), "ipv6": IPv6Interface("2001:2:0:ff01::19/64")}
    moved = topology.model_copy(update={"proxy": topology.proxy.model_copy(update=taken)})

    places = addresses(moved)

    assert str(moved.proxy.ipv4.network) not in networks(places)
    assert places.stranger.ipv6 is not None
    assert not places.stranger.ipv6.network.overlaps(IPv6Interface("2001:2:0:ff01::19/64").network)


def test_a_client_with_an_address_of_its_own_keeps_it(topology: Topology) -> None:
    own = {"ipv4": IPv4Interface("192.168.1.2/24"), "ipv4_gateway": IPv4Interface("192.168.1.1/24").ip}
    places = addresses(topology.model_copy(update={"client": topology.client.model_copy(update=own)}))

    assert places.client.ipv4 == IPv4Interface("192.168.1.2/24")
    assert str(places.lan.ipv4_gateway) == "192.168.1.1"
    assert places.lan.ipv4.ip not in (places.client.ipv4.ip, places.lan.ipv4_gateway)


def test_the_root_zone_names_thirteen_servers_with_their_addresses() -> None:
    zone = root_zone(())

    assert zone.count(" IN NS ") == zone.count(" IN AAAA ") == zone.count(" IN A ") == 13
    assert len({*root_addresses()}) == 28


def test_a_boot_sector_is_one() -> None:
    assert boot_sector()[510:512] == b"\x55\xaa"
    assert (1000).to_bytes(4, "little") in boot_sector(1000)[:16]


STORED = b"""\
Return-Path: <alice@example.org>
X-Original-To: someone@stranger.example
Delivered-To: someone@stranger.example
Received: from mail.example.org (mail.example.org [%b])
\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))
\tby mx.stranger.example (Postfix) with ESMTPS id 1
\tfor <someone@stranger.example>; Sun, 22 Nov 2026 18:00:00 +0000 (UTC)
Received: from home.example.org (unknown [10.0.0.2])
\tby mail.example.org; Sun, 22 Nov 2026 18:00:00 +0000
Subject: hello

Is this on?
"""


@pytest.mark.parametrize(
    ("written", "address"), [(b"198.18.0.10", "198.18.0.10"), (b"IPv6:2001:2:0:1::10", "2001:2:0:1::10")]
)
def test_a_stored_message_is_split_into_envelope_and_what_came_over_the_wire(written: bytes, address: str) -> None:
    received = as_received(STORED % written)

    assert received.client_address == address
    assert (received.sender, received.recipient) == ("alice@example.org", "someone@stranger.example")
    assert (received.helo, received.tls, received.subject) == ("mail.example.org", "TLSv1.3", "hello")
    assert received.raw.startswith(b"Received: from home.example.org")


def test_a_wait_says_what_it_awaited_and_what_it_saw_last() -> None:
    with pytest.raises(ExpectationError, match="awaited rain for 0 s; last seen: clouds"):
        wait_for("rain", lambda: Seen(False, "clouds"), within_s=0.05, every_s=0.01)


def test_a_hopeless_wait_ends_at_once() -> None:
    def look() -> Seen:
        raise HopelessError("it never rains here")

    with pytest.raises(HopelessError, match="never"):
        wait_for("rain", look, within_s=3600)


def test_patience_stretches_waits() -> None:
    assert Patience(12).seconds(5) == 60


def test_damaged_notes_on_the_accelerator_are_as_good_as_none(tmp_path: Path) -> None:
    notes = tmp_path / "accelerator.json"
    for content in ("", "{", "[1]"):
        notes.write_text(content)
        assert known_accelerators(notes) == {}
    notes.write_text('{"here": false}')
    assert known_accelerators(notes) == {"here": False}
    assert known_accelerators(tmp_path / "none") == {}
