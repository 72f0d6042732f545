"""Power cuts, resets and freezes bite: seen on a machine that does nothing but say the alphabet."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuilder.tools import Tools
from imagebuilder.vm.chassis import Chassis
from imagebuilder.vm.disks import overlay, raw
from imagebuilder.vm.waiting import Seen, wait_for
from tests.vm.test_resume import SPELLER, speller, wait_for_letters

pytestmark = pytest.mark.vm


@pytest.fixture
def machine(tools: Tools) -> Iterator[Chassis]:
    """A machine that is on and spells."""
    with tempfile.TemporaryDirectory(prefix="bed") as name:
        folder = Path(name)
        image, disk = folder / "image", folder / "disk"
        image.write_bytes((SPELLER.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
        overlay(tools, raw(image), disk)
        machine = speller(tools, folder, disk, None)
        machine.start()
        try:
            wait_for_letters(machine, 3)
            yield machine
        finally:
            machine.kill()


def starts(machine: Chassis) -> int:
    """Return how often it began to spell."""
    return machine.console().count(">")


def wait_for_another_start(machine: Chassis, count: int) -> None:
    wait_for("another start", lambda: Seen(starts(machine) == count, machine.console()[-40:]), within_s=60)
    wait_for("its first letters", lambda: Seen(machine.console().rpartition(">")[2] >= "abc", "fewer"), within_s=60)


def test_a_power_cut_ends_the_machine_at_once_and_its_memory_is_gone(machine: Chassis) -> None:
    began = time.monotonic()
    machine.kill()
    assert not machine.running
    assert time.monotonic() - began < 5
    said = machine.console()
    time.sleep(1)
    assert machine.console() == said

    machine.start()

    wait_for_another_start(machine, 2)


def test_a_reset_starts_the_machine_afresh_without_switching_it_off(machine: Chassis) -> None:
    machine.reset()

    wait_for_another_start(machine, 2)
    assert machine.running


def test_a_frozen_machine_stands_still_and_goes_on_where_it_was(machine: Chassis) -> None:
    machine.freeze()
    said = machine.console()
    time.sleep(1.5)
    assert machine.console() == said

    machine.unfreeze()

    wait_for("more letters", lambda: Seen(len(machine.console()) > len(said), "none"), within_s=60)
    assert starts(machine) == 1
