"""A machine goes on from where it was frozen, as often as one likes; a boot sector that counts is machine enough."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.tools import Tools
from imagebuilder.vm.chassis import Chassis
from imagebuilder.vm.disks import move_sparsely, overlay, qcow2, raw
from imagebuilder.vm.faults import failing_disk, slow_disk
from imagebuilder.vm.qemu import Acceleration, Firmware, Hardware, Memory
from imagebuilder.vm.waiting import Seen, wait_for

pytestmark = pytest.mark.vm

SPELLER = bytes.fromhex(
    "fa 31c0 8ed8"  # no interrupts, and data at 0
    "baf803 b03e ee c606007e60"  # '>' to the first serial port; the letter before 'a' to memory
    "fe06007e 803e007e7b 7505 c606007e61"  # the next letter, 'a' after 'z'
    "a0007e ee"  # say it
    "66b9002d3101 6649 75fc ebe0"  # count twenty millions down, and on
)
"""A program that says '>' and then the alphabet for ever; where it is in it, only its memory knows."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short name, as sockets need."""
    with tempfile.TemporaryDirectory(prefix="bed") as name:
        yield Path(name)


def spoken(machine: Chassis) -> str:
    return machine.console().partition(">")[2].strip()


def wait_for_letters(machine: Chassis, count: int) -> None:
    wait_for("letters", lambda: Seen(len(spoken(machine)) >= count, machine.console()[-80:]), within_s=60)


def speller(tools: Tools, folder: Path, disk: Path, ram: Path | None) -> Chassis:
    hardware = Hardware("speller", folder, 64, Acceleration.TCG, disk, firmware=Firmware.BIOS, ram=ram)
    return Chassis(hardware, tools, reports=folder)


def test_a_machine_goes_on_from_its_memory_more_than_once_and_leaves_it_as_it_was(tools: Tools, folder: Path) -> None:
    image, disk, kept = folder / "image", folder / "disk", folder / "kept"
    image.write_bytes((SPELLER.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    overlay(tools, raw(image), disk)
    machine = speller(tools, folder, disk, folder / "ram")
    machine.start()
    try:
        wait_for_letters(machine, 5)
        machine.freeze()
        machine.keep(folder / "state")
    finally:
        machine.kill()
    move_sparsely(folder / "ram", kept)
    before, digest = spoken(machine), hashlib.sha256(kept.read_bytes()).digest()
    assert kept.stat().st_blocks * 512 < 32 << 20

    for number in range(2):
        above = folder / f"above{number}"
        overlay(tools, qcow2(disk, image), above)
        resumed = speller(tools, folder, above, None)
        told = len(spoken(machine))
        resumed.resume(Memory(kept, folder / "state"))
        try:
            wait_for_letters(resumed, told + 5)
            slow_disk(resumed, 1_000_000)  # what faults need is there after a restore, too
            failing_disk(resumed, "read", "write")
            failing_disk(resumed)
        except BaseException as error:
            error.add_note(resumed.report())
            raise
        finally:
            resumed.kill()
        after = spoken(resumed)[told:]
        assert ">" not in after
        assert after[0] == chr((ord(before[-1]) - ord("a") + 1) % 26 + ord("a"))
    assert hashlib.sha256(kept.read_bytes()).digest() == digest
