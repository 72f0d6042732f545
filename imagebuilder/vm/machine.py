"""A booted image: start and stop it, run commands in it, wait for it. Owns one QEMU process."""

import contextlib
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import environment, say
from imagebuilder.tools import Tools
from imagebuilder.vm.agent import TIMED_OUT, Agent, AgentError, Completed
from imagebuilder.vm.namespace import entered
from imagebuilder.vm.qemu import Hardware, qemu_argv
from imagebuilder.vm.qmp import Qmp, QmpError
from imagebuilder.vm.waiting import NATURAL, ExpectationError, HopelessError, Patience, Seen, wait_for

ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[()][0-9A-Z]|c)")
"""What a terminal would not show (ECMA-48 sections 5.4 and 5.6)."""
HELLO_S = 25.0
"""Seconds that a machine with its own processor may take from power-on to the root shell."""
SETTLED_S = 30.0
"""Seconds that it may then take until systemd has nothing left to start."""


class MachineError(ImagebuilderError):
    """The bed could not do its part: QEMU or the shell inside is gone."""


class Machine:
    """One machine: QEMU as a child process, a root shell inside, console and journal in files."""

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
        self._devices = tuple(devices)
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: Qmp | None = None
        self._agent = Agent(hardware.shell_socket)
        self._started = 0.0
        self.hello_s: float | None = None
        """Seconds from power-on to the root shell, at the last boot."""
        self.settled_s: float | None = None
        """Seconds from power-on until systemd had nothing left to start, at the last boot."""

    # --- power

    def start(self, *, resume: bool = False) -> None:
        """Switch the machine on, or with *resume* prepare it for a saved memory, and return at once."""
        if self.running:
            raise MachineError(f"{self.name} is on already")
        hardware = replace(self.hardware, incoming=resume)
        argv = qemu_argv(hardware, console=self.console_file, journal=self.journal_file)
        for stale in (hardware.qmp_socket, hardware.shell_socket):
            stale.unlink(missing_ok=True)
        for file in (self.console_file, self.journal_file):
            file.touch()
        command = self._tools.argv(argv, network=True, read=self._read, write=self._write, devices=self._devices)
        self._started = time.monotonic()
        self.hello_s = self.settled_s = None
        place = entered(self._network) if self._network else contextlib.nullcontext()
        with place, self.messages_file.open("ab") as messages:
            self._process = subprocess.Popen(
                command, env=environment(), stdin=subprocess.DEVNULL, stdout=messages, stderr=messages
            )
        try:
            self._qmp = Qmp(hardware.qmp_socket)
            self._agent.connect()
        except ImagebuilderError as error:
            self.kill()
            raise MachineError(f"{self.name} did not start: {error}\n{self._messages()}") from error

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
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def reset(self) -> None:
        """Press the reset button; the next wait is for the new boot."""
        self.qmp.command("system_reset")
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

    # --- commands inside

    def execute(self, script: str, *, timeout_s: float = 60) -> Completed:
        """Run *script* by bash as root and return what it did."""
        self._wait_for_shell()
        try:
            return self._agent.run(script, timeout_s=self.patience.seconds(timeout_s))
        except AgentError as error:
            raise MachineError(f"{self.name}: {error}{self._if_dead()}") from error

    def succeed(self, script: str, *, timeout_s: float = 60) -> str:
        """Run *script* and return its standard output; raise ExpectationError unless its status is 0."""
        done = self.execute(script, timeout_s=timeout_s)
        if done.status:
            raise ExpectationError(f"{self.name}: {_what(script)} {_outcome(done)}")
        return done.text

    def fail(self, script: str, *, timeout_s: float = 60) -> str:
        """Run *script* and return all it said; raise ExpectationError if its status is 0 or time ran out."""
        done = self.execute(script, timeout_s=timeout_s)
        if done.status in (0, TIMED_OUT):
            raise ExpectationError(f"{self.name}: {_what(script)} was to fail and {_outcome(done)}")
        return done.text + done.stderr.decode(errors="replace")

    def write_file(self, path: str, content: bytes, *, mode: str = "0644") -> None:
        """Write *content* to *path* in the machine."""
        quoted = shlex.quote(path)
        octal = "".join(f"\\x{byte:02x}" for byte in content)
        self.succeed(f"umask 077; printf '%b' '{octal}' >{quoted} && chmod {mode} {quoted}")

    def set_clock(self, seconds: float | None = None) -> None:
        """Set the machine's clock to *seconds* since 1970, or to this host's."""
        self.succeed(f"date --utc --set=@{time.time() if seconds is None else seconds:.3f}")

    # --- waits

    def wait_until_succeeds(self, script: str, *, within_s: float = 60) -> str:
        """Return the output of *script* once its status is 0."""
        last = Completed(0, b"", b"")

        def look() -> Seen:
            nonlocal last
            last = self.execute(script, timeout_s=within_s)
            return Seen(last.status == 0, _outcome(last))

        self._wait(f"success of {_what(script)}", look, within_s)
        return last.text

    def wait_for_unit(self, unit: str, *, within_s: float = 60) -> None:
        """Return when the systemd *unit* is active; fail at once when it failed, or nothing will start it."""
        idle_looks = 0

        def look() -> Seen:
            nonlocal idle_looks
            state = self.unit(unit)
            active, load = state["ActiveState"], state["LoadState"]
            seen = f"{active} ({state['SubState']}, result {state['Result']})"
            if load != "loaded":
                raise HopelessError(f"{self.name}: {unit} can't become active: its unit file is {load}")
            if active == "failed":
                raise HopelessError(f"{self.name}: {unit} failed: {state['Result']}\n{self.journal(unit, lines=20)}")
            if active == "inactive" and not self.succeed("systemctl list-jobs --no-legend").strip():
                idle_looks += 1
                if idle_looks > 2:
                    raise HopelessError(f"{self.name}: {unit} is inactive and systemd has nothing left to start")
            return Seen(active == "active", seen)

        self._wait(f"unit {unit}", look, within_s)

    def wait_for_open_port(self, port: int, *, address: str = "127.0.0.1", within_s: float = 60) -> None:
        """Return when a TCP connection to *address* and *port* succeeds from inside the machine."""
        self.wait_until_succeeds(f"exec 5<>/dev/tcp/{address}/{port}", within_s=within_s)

    def wait_for_hello(self) -> float:
        """Return the seconds from power-on to the root shell."""
        self._wait_for_shell()
        return self.hello_s or 0.0

    def wait_for_boot(self) -> float:
        """Return the seconds from power-on until systemd settled; raise if a unit failed or a job is stuck."""
        self._wait_for_shell()

        def look() -> Seen:
            # One look costs a machine without a processor of its own a second of work: few looks, one script.
            said = self.execute("systemctl is-system-running; systemctl list-jobs --no-legend --plain").text
            state, *jobs = said.splitlines()
            if state in ("degraded", "maintenance", "stopping"):
                raise HopelessError(f"{self.name} is {state}:\n{self.failed_units()}")
            running = [job.split()[1] for job in jobs if job.endswith("running")]
            return Seen(state == "running", f"{state}, {len(jobs)} jobs, running: {', '.join(running) or 'none'}")

        self._wait("the end of the boot", look, SETTLED_S, every_s=self.patience.seconds(0.3))
        self.settled_s = time.monotonic() - self._started
        # Some boots are "running" moments before a unit fails (facts of the lab): look once more.
        time.sleep(1)
        if failed := self.failed_units():
            raise HopelessError(f"{self.name} has failed units:\n{failed}")
        if jobs := self.succeed("systemctl list-jobs --no-legend --plain").strip():
            raise HopelessError(f"{self.name} has jobs that don't end:\n{jobs}")
        return self.settled_s

    # --- looking

    def unit(self, unit: str) -> dict[str, str]:
        """Return what systemd says of *unit*."""
        properties = "ActiveState,SubState,Result,LoadState,NRestarts,MainPID"
        text = self.succeed(f"systemctl show -p {properties} -- {shlex.quote(unit)}")
        found = dict(line.partition("=")[::2] for line in text.splitlines())
        return {name: found.get(name, "") for name in properties.split(",")}

    def failed_units(self) -> str:
        """Return the failed units with the end of their journals; empty when there is none."""
        names = self.succeed("systemctl --failed --no-legend --plain | cut -d' ' -f1").split()
        return "\n".join(f"{name}:\n{self.journal(name, lines=15)}" for name in names)

    def journal(self, unit: str | None = None, *, lines: int | None = None) -> str:
        """Return the journal of this boot, of all units or of one."""
        script = "journalctl --boot --no-pager --no-hostname --utc --output=short-iso-precise --all"
        script += f" --unit={shlex.quote(unit)}" if unit else ""
        script += f" --lines={lines}" if lines else ""
        return self.succeed(script)

    def console(self) -> str:
        """Return what the serial console showed since the machine was first switched on."""
        text = self.console_file.read_bytes().decode(errors="replace")
        return ESCAPES.sub("", text).replace("\r", "")

    def screenshot(self, path: Path) -> None:
        """Write what the screen shows to *path*, as PNG; its folder must be one that QEMU may write to."""
        self.qmp.command("screendump", filename=str(path), format="png")

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

    def resumed(self) -> None:
        """Say that a saved memory goes on: the shell is there without a hello."""
        self._started = time.monotonic()
        self.hello_s = 0.0

    def _wait_for_shell(self) -> None:
        if self.hello_s is not None:
            return
        limit = self.patience.seconds(HELLO_S)
        while not self._hello_within(15):
            waited = time.monotonic() - self._started
            last = (self.console().strip().splitlines() or ["nothing yet"])[-1]
            if not self.running:
                raise MachineError(f"{self.name} switched itself off while booting{self._if_dead()}")
            if waited > limit:
                raise MachineError(f"{self.name}: no root shell after {waited:.0f} s; console: {last}")
            say(f"awaiting the root shell of {self.name} for {waited:.0f} of {limit:.0f} s; console: {last}")
        self.hello_s = time.monotonic() - self._started

    def _hello_within(self, seconds: float) -> bool:
        try:
            return self._agent.wait_for_hello(timeout_s=seconds)
        except AgentError as error:
            raise MachineError(f"{self.name}: {error}{self._if_dead()}") from error

    def _wait(self, what: str, look: Callable[[], Seen], within_s: float, *, every_s: float = 0.25) -> None:
        wait_for(f"{what} on {self.name}", look, within_s=self.patience.seconds(within_s), every_s=every_s)

    def _if_dead(self) -> str:
        if self.running:
            return ""
        status = self._process.poll() if self._process else None
        return f"; QEMU is not running (status {status})\n{self._messages()}"

    def _messages(self) -> str:
        return self.messages_file.read_text(errors="replace")[-2000:] if self.messages_file.exists() else ""


def _what(script: str) -> str:
    lines = script.strip().splitlines()
    return repr(lines[0] if lines else "") + (" …" if len(lines) > 1 else "")


def _outcome(done: Completed) -> str:
    if done.status == TIMED_OUT:
        return f"did not end in time; it said {_tail(done)}"
    return f"ended with status {done.status}; it said {_tail(done)}"


def _tail(done: Completed) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()[-600:] or "nothing"
