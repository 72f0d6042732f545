"""Machines of the bed with disks that are no pair's own."""

import shutil
from dataclasses import replace
from pathlib import Path

from imagebuilder.secrets.keys import Secrets, credentials
from imagebuilder.topology import Role
from imagebuilder.vm.disks import overlay, provision, raw
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.qemu import OVMF_VARIABLES, Bus, Firmware
from imagebuilder.vm.session import Session


def machine_of(
    running: Session,
    role: Role,
    disk: Path,
    *,
    disk_format: str = "qcow2",
    under: Path | None = None,
    bus: Bus = Bus.VIRTIO,
    firmware: Firmware = Firmware.UEFI,
) -> Machine:
    """Return the machine of *role*, off, with *disk* in place of its own, over *under*, or else its image."""
    subject = running.subject
    variables = running.disks / f"{role}.variables"
    shutil.copyfile(subject.tools.tree / OVMF_VARIABLES.relative_to("/"), variables)
    hardware = running.new_pair("other-disks").machines[role].hardware
    hardware = replace(hardware, disk=disk, disk_format=disk_format, bus=bus, ram=None)
    return Machine(
        replace(hardware, firmware=firmware, variables=variables),
        subject.tools,
        reports=running.reports,
        network=running.world.network_of(role),
        patience=running.accelerator.patience,
        read=[under or subject.images[role].path],
        write=[running.disks, disk.parent],
        devices=running.accelerator.devices,
    )


def client_of(running: Session, secrets: Secrets) -> Machine:
    """Return the client with *secrets*, booting."""
    subject, disk = running.subject, running.disks / "client.qcow2"
    overlay(subject.tools, raw(subject.images[Role.CLIENT].path), disk)
    provision(subject.tools, subject.images[Role.CLIENT], credentials(secrets, subject.topology, Role.CLIENT), disk)
    machine = machine_of(running, Role.CLIENT, disk)
    machine.start()
    return machine
