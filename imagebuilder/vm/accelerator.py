"""What runs the machines here, and how fast: found out by booting something. Starts QEMU for a few seconds."""

import contextlib
import functools
import json
import os
import platform
import select
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import end, environment, run, say
from imagebuilder.tools import Tools
from imagebuilder.vm.qemu import Acceleration
from imagebuilder.vm.waiting import Patience

KVM = Path("/dev/kvm")
KVM_DEVICES = (KVM.parent,)
"""What QEMU must see for it: the folder, as the sandbox has no way to lay out a single device node."""
PROBE = 2
"""Raised when the probe changes, so that what an older one found is not believed."""
REMEMBERED_MOST = 16
"""Machines, kernels and versions of QEMU that are remembered, for stores that several machines share."""
LOOPS = 300_000_000
"""How far the probe counts."""
NATURAL_S = 0.12
"""Seconds that a processor of its own takes to count that far: one step per cycle at about 2.5 GHz."""
LEAST, MOST = 1.0, 25.0
"""Between these is the factor that waits are stretched by."""
EMULATED_LEAST = 8.0
"""An emulated machine does worse at booting than at counting: measured 30 s for what takes 3 s."""
SECTOR_S = 30.0
"""Seconds that the boot sector may take in all; KVM that hangs costs this once per machine."""
KVM_SECTOR_S = 2.0
"""The same with KVM, where it takes a tenth of a second."""


@dataclass(frozen=True)
class Accelerator:
    """The way machines are run here."""

    kind: Acceleration
    patience: Patience
    devices: tuple[Path, ...] = ()
    """Devices of this machine that QEMU needs for it."""


def find_accelerator(tools: Tools, remembered: Path, *, boots_linux: Callable[[Acceleration], bool]) -> Accelerator:
    """Return KVM if it really boots, otherwise emulation, with its speed measured now.

    Whether KVM boots is looked up in the folder *remembered*; there may be a /dev/kvm on which a boot sector counts
    well and a Linux hangs, so *boots_linux* is asked last.
    """
    key = f"probe {PROBE}: {platform.node()} {platform.release()} {processor()} {qemu_version(tools)}"
    notes = remembered / "accelerator.json"
    known = known_accelerators(notes)
    if key not in known:
        known = dict([*known.items(), (key, _kvm_works(tools, boots_linux))][-REMEMBERED_MOST:])
        remembered.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=remembered, prefix=".accelerator.", delete=False) as new:
            new.write(json.dumps(known) + "\n")
        Path(new.name).replace(notes)
    kind = Acceleration.KVM if known[key] else Acceleration.TCG
    seconds = count_in_boot_sector(tools, kind, timeout_s=SECTOR_S)
    if seconds is None:
        raise ImagebuilderError(f"QEMU with {kind} does not even start a boot sector within {SECTOR_S:.0f} s")
    least = LEAST if kind is Acceleration.KVM else EMULATED_LEAST
    factor = min(max(seconds / NATURAL_S, least), MOST)
    say(f"machines run by {kind}; waits are {factor:.0f} times the natural ones")
    return Accelerator(kind, Patience(factor), KVM_DEVICES if kind is Acceleration.KVM else ())


def known_accelerators(notes: Path) -> dict[str, bool]:
    """Return what was found on which machine, with which kernel and QEMU; nothing when the notes are damaged."""
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(notes.read_text())
        if isinstance(known, dict):
            return known
    return {}


def _kvm_works(tools: Tools, boots_linux: Callable[[Acceleration], bool]) -> bool:
    try:
        with KVM.open("r+b", buffering=0):
            pass
    except OSError as error:
        say(f"no KVM: {KVM} can't be opened ({error.strerror})")
        return False
    if count_in_boot_sector(tools, Acceleration.KVM, timeout_s=KVM_SECTOR_S) is None:
        say(f"no KVM: a boot sector did not run within {KVM_SECTOR_S:.0f} s")
        return False
    if not boots_linux(Acceleration.KVM):
        say("no KVM: it starts a boot sector, but no Linux")
        return False
    return True


def boot_sector(loops: int = LOOPS) -> bytes:
    """Return a disk that says A, counts *loops* down, says B on the debug port and ends QEMU. Pure."""
    code = bytes.fromhex("fa b041 e6e9 66b9") + loops.to_bytes(4, "little")  # cli; 'A' to port e9; ecx = loops
    code += bytes.fromhex("6649 75fc")  # dec ecx; jnz back
    code += bytes.fromhex("b042 e6e9 ba0105 b000 ee f4 ebfd")  # 'B'; 0 to port 501, which ends QEMU; hlt
    return (code.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0")


def count_in_boot_sector(tools: Tools, kind: Acceleration, *, timeout_s: float) -> float | None:
    """Return the seconds from A to B, or None when B did not come within *timeout_s*."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "sector"
        disk.write_bytes(boot_sector())
        argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "pc", "-accel", str(kind)]
        argv += ["-cpu", "host" if kind is Acceleration.KVM else "max", "-m", "32", "-display", "none"]
        argv += ["-chardev", "stdio,id=said,signal=off", "-device", "isa-debugcon,iobase=0xe9,chardev=said"]
        argv += ["-device", "isa-debug-exit,iobase=0x501,iosize=1"]
        argv += ["-drive", f"file={disk},format=raw,if=ide"]
        devices = KVM_DEVICES if kind is Acceleration.KVM else ()
        command = tools.argv(argv, write=[Path(folder)], devices=devices)
        return _seconds_from_a_to_b(command, timeout_s)


def _seconds_from_a_to_b(command: list[str], timeout_s: float) -> float | None:
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages
        )
        seconds = _timed(process, timeout_s)
        messages.seek(0)
        if seconds is None and (complaint := messages.read().decode(errors="replace").strip()):
            say(f"QEMU said: {complaint.splitlines()[-1]}")
    return seconds


def _timed(process: subprocess.Popen[bytes], timeout_s: float) -> float | None:
    assert process.stdout is not None
    with process.stdout as said:
        deadline = time.monotonic() + timeout_s
        seen: dict[bytes, float] = {}
        try:
            while b"B" not in seen:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([said], [], [], left)[0]:
                    return None
                for byte in (got := os.read(said.fileno(), 64)):
                    seen.setdefault(bytes([byte]), time.monotonic())
                if not got:
                    return None
        finally:
            end(process)
    return seen[b"B"] - seen[b"A"] if b"A" in seen else None


def processor() -> str:
    """Return what this machine's processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@functools.cache
def qemu_version(tools: Tools) -> str:
    """Return what QEMU says of itself, with Debian's version."""
    return run(tools.argv(["qemu-system-x86_64", "--version"]), timeout_s=SECTOR_S).text.splitlines()[0]
