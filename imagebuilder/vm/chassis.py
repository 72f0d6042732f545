"""A machine from outside: power, cable, screen, keys, packets. Owns one QEMU process."""

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import end, environment, say
from imagebuilder.tools import Tools
from imagebuilder.vm.agent import Agent, AgentError, at_port
from imagebuilder.vm.cables import devices_of, plug_in
from imagebuilder.vm.namespace import entered
from imagebuilder.vm.qemu import Cable, Firmware, Hardware, Memory, qemu_argv
from imagebuilder.vm.qmp import Qmp, QmpError
from imagebuilder.vm.waiting import NATURAL, Patience

ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[()][0-9A-Z]|c)")
"""What a terminal would not show (ECMA-48 sections 5.4 and 5.6)."""
KEEP_S = 30.0
"""Seconds that writing or reading the state of processors and devices may take."""
WITHOUT_RAM = ({"capability": "x-ignore-shared", "state": True},)
CAPTURE, EVIDENCE = "capture", "evidence"
"""Names of QEMU's objects that write packets to a file: on demand, and for each test."""


class MachineError(ImagebuilderError):
    """The bed could not do its part: QEMU or the shell inside is gone."""


class Chassis:
    """A machine without a look inside: QEMU as a child process, its console and its journal in files."""

    def __init__(
        self,
        hardware: Hardware,
        tools: Tools,
        *,
        reports: Path,
        network: str | None = None,
        patience: Patience = NATURAL,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
        devices: Sequence[Path] = (),
    ) -> None:
        self.hardware = hardware
        self.name = hardware.name
        self.patience = patience
        self.console_file = reports / f"{self.name}.console.txt"
        self.journal_file = reports / f"{self.name}.journal.txt"
        self.messages_file = reports / f"{self.name}.qemu.txt"
        self._tools = tools
        self._network = network
        self._read = tuple(read)
        self._write = (hardware.folder, reports, *write)
        self._devices = (*devices, *devices_of([nic.cable for nic in hardware.nics]))
        self._process: subprocess.Popen[bytes] | None = None
        self._pumps: list[subprocess.Popen[bytes]] = []
        """What carries the frames of cables that are no taps."""
        self._qmp: Qmp | None = None
        self._agent = Agent(partial(at_port, hardware.shell_socket))
        self._started = 0.0
        self.hello_s: float | None = None
        """Seconds from power-on to the root shell, at the last boot."""
        self.settled_s: float | None = None
        """Seconds from power-on until systemd had nothing left to start, at the last boot."""
        self.capturing: Path | None = None
        """Where its packets go to, at the moment."""

    # --- power

    def start(self, firmware: Firmware | None = None) -> None:
        """Switch the machine on, with another *firmware* from now on if one is named, and return at once."""
        self.hardware = replace(self.hardware, firmware=firmware or self.hardware.firmware)
        self._power_on(self.hardware)

    def keep(self, state: Path) -> None:
        """Write all but the RAM of the frozen machine to *state*, and switch it off; its RAM is in a file already."""
        self.qmp.command("migrate-set-capabilities", capabilities=list(WITHOUT_RAM))
        self.qmp.command("migrate", uri=f"file:{state}")
        self.qmp.wait_for_migration(timeout_s=self.patience.seconds(KEEP_S))
        self.kill()

    def resume(self, memory: Memory) -> None:
        """Go on from *memory*: the shell is there without a hello. The clock stood still meanwhile."""
        self._power_on(self.hardware.resuming(memory))
        self.qmp.command("migrate-set-capabilities", capabilities=list(WITHOUT_RAM))
        self.qmp.command("migrate-incoming", uri=f"file:{memory.state}")
        self.qmp.wait_for_migration(timeout_s=self.patience.seconds(KEEP_S))
        self.unfreeze()
        self.hello_s = 0.0

    def _power_on(self, hardware: Hardware) -> None:
        if self.running:
            raise MachineError(f"{self.name} is on already")
        for stale in (hardware.qmp_socket, hardware.shell_socket, hardware.terminal_socket):
            stale.unlink(missing_ok=True)
        for file in (self.console_file, self.journal_file):
            file.touch()
        self._started = time.monotonic()
        self.hello_s = self.settled_s = None
        self._process = self._qemu(hardware)
        try:
            self._qmp = Qmp(hardware.qmp_socket)
            self._agent.connect()
        except ImagebuilderError as error:
            self.kill()
            raise MachineError(f"{self.name} did not start: {error}\n{self._messages()}") from error

    def _qemu(self, hardware: Hardware) -> "subprocess.Popen[bytes]":
        """Start QEMU, which then owns its ends of the cables."""
        with contextlib.ExitStack() as stack:
            sockets = {
                nic.device: stack.enter_context(self._plugged_in(nic.device)).fileno()
                for nic in hardware.nics
                if nic.cable is Cable.PACKET
            }
            argv = qemu_argv(hardware, console=self.console_file, journal=self.journal_file, sockets=sockets)
            command = self._tools.argv(argv, network=True, read=self._read, write=self._write, devices=self._devices)
            messages = stack.enter_context(self.messages_file.open("ab"))
            if self._network:
                stack.enter_context(entered(self._network))
            return subprocess.Popen(
                command, env=environment(), stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
                pass_fds=tuple(sockets.values()),
            )  # fmt: skip

    def _plugged_in(self, device: str) -> socket.socket:
        end_of_cable, pump = plug_in(device)
        self._pumps.append(pump)
        return end_of_cable

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def qmp(self) -> Qmp:
        """QEMU's own commands, for faults and snapshots."""
        if self._qmp is None:
            raise MachineError(f"{self.name} is off")
        return self._qmp

    def stop(self, *, within_s: float = 30) -> None:
        """Press the power button and wait until the machine is off; pull the plug when that takes too long."""
        if not self.running:
            return
        # Not every image runs something that listens to the button.
        with contextlib.suppress(QmpError, AgentError):
            self.qmp.command("system_powerdown")
            if self.hello_s is not None:
                self._agent.run("systemctl --no-block poweroff", timeout_s=self.patience.seconds(5))
        process = self._process
        assert process is not None
        try:
            process.wait(self.patience.seconds(within_s))
        except subprocess.TimeoutExpired:
            say(f"{self.name} did not switch itself off within {self.patience.seconds(within_s):.0f} s: plug pulled")
        self.kill()

    def kill(self) -> None:
        """Pull the plug."""
        self._agent.close()
        self.capturing = None
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        if self._process is not None:
            end(self._process)
            self._process = None
        while self._pumps:
            end(self._pumps.pop())

    def reset(self) -> None:
        """Press the reset button; the next wait is for the new boot."""
        self.qmp.command("system_reset")
        self.starts_anew()

    def starts_anew(self) -> None:
        """Take note that the machine starts another system by itself; the next wait is for that one."""
        self._started = time.monotonic()
        self.hello_s = self.settled_s = None
        self._agent.connect()

    def freeze(self) -> None:
        """Stop the processor; the network goes quiet without a word."""
        self.qmp.command("stop")

    def unfreeze(self) -> None:
        """Let the processor go on."""
        self.qmp.command("cont")

    def link(self, *, up: bool, number: int = 0) -> None:
        """Plug the cable of network card *number* in or out."""
        self.qmp.command("set_link", name=f"net{number}", up=up)

    # --- screen, keys, packets

    def screenshot(self, path: Path) -> None:
        """Write what the screen shows to *path*, as PNG; its folder must be one that QEMU may write to."""
        self.qmp.command("screendump", filename=str(path), format="png")

    def press(self, *keys: str) -> None:
        """Press *keys* one after the other, each by QEMU's names: "a", "ret", "ctrl-alt-delete"."""
        for key in keys:
            if said := self.qmp.monitor(f"sendkey {key}").strip():
                raise MachineError(f"{self.name} has no key {key!r}: {said}")

    def capture(self, path: Path) -> None:
        """Write the packets of the first network card to *path* from now on, as pcap, in a folder of QEMU's."""
        self._dump(CAPTURE, path)
        self.capturing = path

    def end_capture(self) -> Path | None:
        """End `capture` and return its file; None when there was none."""
        path, self.capturing = self.capturing, None
        if path is not None:
            self.qmp.command("object-del", id=CAPTURE)
        return path

    def keep_packets(self, path: Path) -> None:
        """Write the same to *path*, afresh, until the machine is off, beside any `capture`: what a failure leaves."""
        with contextlib.suppress(QmpError):  # there was none yet
            self.qmp.command("object-del", id=EVIDENCE)
        self._dump(EVIDENCE, path)

    def _dump(self, name: str, path: Path) -> None:
        self.qmp.command("object-add", id=name, **{"qom-type": "filter-dump"}, netdev="net0", file=str(path))

    # --- looking

    def console(self) -> str:
        """Return what the serial console showed since the machine was first switched on."""
        text = self.console_file.read_bytes().decode(errors="replace")
        return ESCAPES.sub("", text).replace("\r", "")

    def report(self, *, lines: int = 60) -> str:
        """Return the ends of console and journal, for a failed test."""
        journal = self.journal_file.read_text(errors="replace") if self.journal_file.exists() else ""
        console = self.console() if self.console_file.exists() else ""
        parts = (("console", console), ("journal", journal), ("QEMU", self._messages()))
        return "\n".join(
            f"--- {self.name}: end of {title}\n" + "\n".join(text.splitlines()[-lines:])
            for title, text in parts
            if text
        )

    # --- inside

    def _if_dead(self) -> str:
        if self.running:
            return ""
        status = self._process.poll() if self._process else None
        return f"; QEMU is not running (status {status})\n{self._messages()}"

    def _messages(self) -> str:
        return self.messages_file.read_text(errors="replace")[-2000:] if self.messages_file.exists() else ""
