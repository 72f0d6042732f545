"""QEMU's command line for a machine. Pure."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from uuid import NAMESPACE_DNS, uuid5

from imagebuilder.errors import ImagebuilderError
from imagebuilder.vm.agent import JOURNAL_PORT, PORT

SMBIOS_BYTES_MAX = 60_000
"""Credentials up to this size were seen to arrive under OVMF; 200,000 bytes stop the boot."""
OVMF_CODE = PurePosixPath("/usr/share/OVMF/OVMF_CODE_4M.fd")
"""UEFI firmware in the tools tree."""
OVMF_VARIABLES = PurePosixPath("/usr/share/OVMF/OVMF_VARS_4M.fd")
"""UEFI variables in the tools tree; each machine has its own copy."""


DISK_DEVICE = "disk0"
"""Name of the card that the disk hangs on, for faults."""
DISK_NODE = "disk-whole"
"""Name of the disk itself, as QEMU's block layer has it."""


class Firmware(StrEnum):
    """What starts the machine."""

    UEFI = "uefi"
    BIOS = "bios"


class Bus(StrEnum):
    """What the machine's disk is connected by."""

    VIRTIO = "virtio"
    NVME = "nvme"
    AHCI = "ahci"
    USB = "usb"


BUS_DEVICES: Mapping[Bus, tuple[str, ...]] = {
    Bus.VIRTIO: ("virtio-blk-pci,drive=disk,bootindex=1",),
    Bus.NVME: ("nvme,serial=disk,drive=disk,bootindex=1",),
    Bus.AHCI: ("ide-hd,bus=ide.0,drive=disk,bootindex=1",),  # the machine's own controller
    Bus.USB: ("qemu-xhci", "usb-storage,drive=disk,bootindex=1"),
}


class Acceleration(StrEnum):
    """What runs the machine's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class Kernel:
    """A kernel that is started without any disk, for machines that only try the bed itself."""

    path: Path
    initrd: Path
    command_line: str


class Cable(StrEnum):
    """What a network card is plugged into."""

    TAP = "tap"
    PACKET = "packet"
    """A raw socket, which is nobody's to refuse, and a process that carries its frames."""


@dataclass(frozen=True)
class Nic:
    """A network card of the machine."""

    device: str
    """Name of the device of this machine that is its other end."""
    mac: str
    cable: Cable = Cable.TAP


@dataclass(frozen=True)
class Memory:
    """What a machine that was frozen goes on from; nothing is ever written to it again."""

    ram: Path
    """Its RAM, as it is; sparse. Machines that go on from it share it, each keeping its own changes to itself."""
    state: Path
    """All the rest: processors and devices."""


@dataclass(frozen=True)
class Hardware:
    """All that QEMU is told about one machine."""

    name: str
    folder: Path
    """Sockets, console, journal and QEMU's own messages; short, as a socket's path may have 107 bytes."""
    memory_mib: int
    acceleration: Acceleration
    disk: Path | None = None
    """Its disk, written to."""
    disk_format: str = "qcow2"
    """Or raw: a disk that was flashed."""
    bus: Bus = Bus.VIRTIO
    firmware: Firmware = Firmware.UEFI
    variables: Path | None = None
    """UEFI variables, written to; required with UEFI."""
    kernel: Kernel | None = None
    nics: tuple[Nic, ...] = ()
    credentials: tuple[tuple[str, bytes], ...] = ()
    """systemd credentials, by name; PID 1 of the machine finds them in its SMBIOS tables."""
    boot_deadline_s: float | None = None
    """Seconds that systemd may wait for a device or a service by default; None: as long as it does anyhow."""
    ram: Path | None = None
    """File that its RAM is in, so that it can be kept; None: that of the process."""
    resumes: Memory | None = None
    """What it waits to go on from, instead of starting."""

    @property
    def qmp_socket(self) -> Path:
        """Where QEMU takes commands."""
        return self.folder / "qmp"

    @property
    def shell_socket(self) -> Path:
        """Where the root shell answers."""
        return self.folder / "shell"

    @property
    def terminal_socket(self) -> Path:
        """Where the terminal of a person at the machine ends."""
        return self.folder / "terminal"

    def resuming(self, memory: Memory) -> "Hardware":
        """Return the same hardware, waiting to go on from *memory*."""
        return replace(self, resumes=memory, ram=None)


def mac_address(name: str) -> str:
    """Return the locally administered address of the machine *name*; the same at every run."""
    digest = hashlib.sha256(name.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *digest[:3]))


def qemu_argv(
    hardware: Hardware, *, console: Path, journal: Path, sockets: Mapping[str, int] = MappingProxyType({})
) -> list[str]:
    """Return the argv that runs *hardware*, its serial console and its journal going to these two files.

    *sockets* are the open files, by the names of devices, of those network cards that have one.
    """
    argv = ["qemu-system-x86_64", "-name", hardware.name, "-nodefaults", "-no-user-config"]
    # The image takes its machine-id from the firmware, so that it lasts although /etc is read-only.
    argv += ["-uuid", str(uuid5(NAMESPACE_DNS, f"{hardware.name}.bed"))]
    argv += ["-machine", "q35,memory-backend=ram", *_processor(hardware), *_memory(hardware)]
    argv += ["-rtc", "base=utc", "-display", "none", "-device", "VGA", "-device", "virtio-rng-pci"]
    argv += ["-qmp", f"unix:{hardware.qmp_socket},server=on,wait=off"]
    argv += ["-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console"]
    argv += ["-device", "virtio-serial-pci"]
    argv += ["-chardev", f"socket,id=shell,path={hardware.shell_socket},server=on,wait=off"]
    argv += ["-device", f"virtserialport,chardev=shell,name={PORT}"]
    argv += ["-chardev", f"file,id=journal,path={journal},append=on"]
    argv += ["-device", f"virtserialport,chardev=journal,name={JOURNAL_PORT}"]
    argv += ["-chardev", f"socket,id=terminal,path={hardware.terminal_socket},server=on,wait=off"]
    argv += ["-device", "virtconsole,chardev=terminal"]
    argv += _disk(hardware) + _start(hardware) + _network(hardware, sockets)
    argv += smbios_arguments(dict(hardware.credentials))
    if hardware.boot_deadline_s is not None:
        # systemd-stub appends this to the command line; its own 90 s are nothing to an emulated machine under load.
        names = ("systemd.default_device_timeout_sec", "systemd.default_timeout_start_sec")
        extra = " ".join(f"{name}={hardware.boot_deadline_s:.0f}" for name in names)
        argv += ["-smbios", f"type=11,value=io.systemd.stub.kernel-cmdline-extra={extra}"]
    if hardware.resumes is not None:
        argv += ["-incoming", "defer"]
    return argv


def smbios_arguments(credentials: Mapping[str, bytes]) -> list[str]:
    """Return the arguments that carry *credentials* to systemd in the machine's SMBIOS tables.

    Raises ImagebuilderError when they are larger than what firmware was seen to carry.
    """
    argv: list[str] = []
    total = 0
    for name, content in sorted(credentials.items()):
        encoded = base64.b64encode(content).decode()
        total += len(encoded)
        argv += ["-smbios", f"type=11,value=io.systemd.credential.binary:{name}={encoded}"]
    if total > SMBIOS_BYTES_MAX:
        raise ImagebuilderError(f"credentials of {total:,} bytes don't fit the SMBIOS tables ({SMBIOS_BYTES_MAX:,})")
    return argv


def _processor(hardware: Hardware) -> list[str]:
    if hardware.acceleration is Acceleration.KVM:
        return ["-accel", "kvm", "-cpu", "host", "-smp", "2"]
    # The oldest processor that Debian runs on. With a newer one Rspamd compiles its list of domains by Hyperscan at the
    # first start: 10 s of a real processor, minutes of an emulated one.
    # One of them: what several may run at once is translated to slower code, and the timer of a second one was seen
    # never to fire (QEMU 10), at which the kernel hangs.
    return ["-accel", "tcg", "-cpu", "qemu64,+rdrand", "-smp", "1"]


def _memory(hardware: Hardware) -> list[str]:
    # What QEMU calls VM templating (docs/system/vm-templating.rst): nothing has to be read before it goes on.
    size = f"size={hardware.memory_mib}M"
    if hardware.resumes is not None:
        ram = f"memory-backend-file,id=ram,{size},mem-path={hardware.resumes.ram},share=off,readonly=on,rom=off"
    elif hardware.ram is not None:
        ram = f"memory-backend-file,id=ram,{size},mem-path={hardware.ram},share=on"
    else:
        ram = f"memory-backend-ram,id=ram,{size}"
    return ["-m", str(hardware.memory_mib), "-object", ram]


def _disk(hardware: Hardware) -> list[str]:
    if hardware.disk is None:
        return []
    # cache=unsafe: the host's page cache outlives a killed QEMU, and a killed host is not what is tested.
    drive = f"if=none,id=disk,file={hardware.disk},format={hardware.disk_format},cache=unsafe,discard=unmap"
    *controllers, device = BUS_DEVICES[hardware.bus]
    argv = ["-drive", f"{drive},node-name={DISK_NODE}"]
    for each in (*controllers, f"{device},id={DISK_DEVICE}"):
        argv += ["-device", each]
    return argv


def _start(hardware: Hardware) -> list[str]:
    if hardware.kernel is not None:
        kernel = hardware.kernel
        return ["-kernel", str(kernel.path), "-initrd", str(kernel.initrd), "-append", kernel.command_line]
    if hardware.firmware is Firmware.BIOS:
        return []
    return [
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}",
        "-drive", f"if=pflash,format=raw,unit=1,file={hardware.variables}",
    ]  # fmt: skip


def _network(hardware: Hardware, sockets: Mapping[str, int]) -> list[str]:
    argv: list[str] = []
    for number, nic in enumerate(hardware.nics):
        if nic.cable is Cable.TAP:
            argv += ["-netdev", f"tap,id=net{number},ifname={nic.device},script=no,downscript=no"]
        else:
            argv += ["-netdev", f"dgram,id=net{number},local.type=fd,local.str={sockets.get(nic.device, 'none')}"]
        # romfile=: no PXE, which would only cost time when a disk doesn't start
        argv += ["-device", f"virtio-net-pci,netdev=net{number},mac={nic.mac},romfile="]
    return argv
