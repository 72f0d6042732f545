"""What was flashed starts: from every kind of disk that a server has, by both kinds of firmware."""

import argparse
import os
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from imagebuilder.commands.sources import source_arguments
from imagebuilder.commands.subject import subject_of
from imagebuilder.secrets.keys import credentials
from imagebuilder.shipping.flash import flash
from imagebuilder.shipping.provision import Provisioned, secrets_filesystem
from imagebuilder.topology import Role
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.qemu import Bus, Firmware
from imagebuilder.vm.session import Subject, session
from tests.vm.machines import machine_of

pytestmark = pytest.mark.vm

DISK_BYTES = 16 * 10**9
IN_CI: set[tuple[Bus, Firmware]] = set()
WAYS = tuple(
    pytest.param(bus, firmware, marks=() if (bus, firmware) in IN_CI else pytest.mark.nightly, id=f"{bus}-{firmware}")
    for bus, firmware in product(Bus, Firmware)
)


@pytest.fixture(scope="module")
def subject(pytestconfig: pytest.Config) -> Subject:
    """What --topology means, built; without it these tests are skipped, which in CI is a failure."""
    path = pytestconfig.getoption("--topology")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("--topology names none")
    parser = argparse.ArgumentParser()
    source_arguments(parser)
    subject, _ = subject_of(argparse.Namespace(**vars(parser.parse_args([])), topology=path))
    return subject


def flashed(subject: Subject, path: Path) -> None:
    """Make *path* a disk that was full of something else, and flash the client to it."""
    image = subject.images[Role.CLIENT]
    given = credentials(subject.secrets, subject.topology, Role.CLIENT)
    filesystem = secrets_filesystem(subject.tools, given, limit_bytes=image.secrets_size)
    with path.open("wb") as file:
        for place in (0, 700 * 2**20, image.secrets_offset, image.size_bytes + 2**20):
            file.seek(place)
            file.write(b"what was here before" * 10**6)
        file.truncate(DISK_BYTES)
    flash(Provisioned(image, filesystem, DISK_BYTES), path)


@pytest.mark.parametrize(("bus", "firmware"), WAYS)
def test_a_flashed_client_starts_without_a_failed_unit_from(bus: Bus, firmware: Firmware, subject: Subject) -> None:
    def work() -> None:
        with session(replace(subject, folder=subject.folder / f"{bus}-{firmware}")) as bed:
            disk = bed.disks / "flashed.raw"
            flashed(subject, disk)
            machine = machine_of(bed, Role.CLIENT, disk, disk_format="raw", bus=bus, firmware=firmware)
            try:
                machine.start()
                machine.wait_for_boot()
                assert (machine.execute("test -d /sys/firmware/efi").status == 0) == (firmware is Firmware.UEFI)
                transport = machine.succeed("udevadm info --query=property --name=/dev/disk/by-partlabel/secrets")
                assert {Bus.USB: "ID_BUS=usb", Bus.AHCI: "ID_BUS=ata", Bus.NVME: "nvme", Bus.VIRTIO: "/dev/vd"}[
                    bus
                ] in transport
                # The first boot has filled the disk to its end, and no old byte is taken for a file system.
                size = int(machine.succeed("lsblk --noheadings --bytes --output SIZE /dev/disk/by-partlabel/var"))
                assert size > DISK_BYTES - 2 * subject.images[Role.CLIENT].size_bytes
                given = credentials(subject.secrets, subject.topology, Role.CLIENT)["ssh.hostkey"]
                assert machine.succeed("cat /run/credstore/ssh.hostkey") == given.decode()
            except BaseException as failure:
                failure.add_note(machine.report())
                raise
            finally:
                machine.kill()
        shutil.rmtree(subject.folder / f"{bus}-{firmware}", ignore_errors=True)

    inside(work)
