"""What a failed test leaves of the network is written beside a capture that somebody asked for."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.topology import Role
from imagebuilder.vm.cables import VARIABLE
from imagebuilder.vm.chassis import Chassis
from imagebuilder.vm.disks import overlay, raw
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.qemu import Acceleration, Cable, Firmware, Hardware, Nic
from imagebuilder.vm.world import CABLE_ENDS, World
from tests.vm.test_resume import SPELLER

pytestmark = pytest.mark.vm

PCAP = b"\xd4\xc3\xb2\xa1"
"""How a capture begins (little endian, microseconds)."""


@pytest.mark.parametrize("cable", list(Cable))
def test_packets_are_kept_beside_a_capture_that_was_asked_for(
    new_world: Callable[[], World], cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, cable)

    def work() -> tuple[bytes, bytes]:
        with new_world() as world, tempfile.TemporaryDirectory(prefix="bed") as name:
            folder = Path(name)
            image, disk = folder / "image", folder / "disk"
            image.write_bytes((SPELLER.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
            overlay(world.tools, raw(image), disk)
            nics = (Nic(CABLE_ENDS[Role.PROXY], "52:54:00:00:00:01", world.cable),)
            hardware = Hardware("speller", folder, 64, Acceleration.TCG, disk, firmware=Firmware.BIOS, nics=nics)
            place = world.network_of(Role.PROXY)
            machine = Chassis(hardware, world.tools, reports=folder, network=place)
            machine.start()
            try:
                machine.keep_packets(folder / "evidence.pcap")
                machine.capture(folder / "asked.pcap")
                ended = machine.end_capture()
                assert ended is not None
                return (folder / "evidence.pcap").read_bytes(), ended.read_bytes()
            finally:
                machine.kill()

    evidence, asked = inside(work)
    assert evidence.startswith(PCAP)
    assert asked.startswith(PCAP)
