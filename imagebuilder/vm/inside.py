"""What root does inside a machine, wherever it runs: commands, files, units, journals, and waits for them."""

import base64
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from imagebuilder.vm.agent import TIMED_OUT, Completed
from imagebuilder.vm.waiting import ExpectationError, HopelessError, Patience, Seen, wait_for

PIECE = 2**20
"""Bytes that are written to a file in the machine at once."""


class Inside(ABC):
    """A machine as its root sees it."""

    name: str
    patience: Patience

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether anybody could answer."""

    # --- commands

    @abstractmethod
    def execute(self, script: str, *, timeout_s: float = 60, clock_jumps: bool = False) -> Completed:
        """Run *script* by bash as root and return what it did; nothing kills it in there if its *clock_jumps*."""

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

    def systemctl(self, order: str, *, timeout_s: float = 60) -> str:
        """Run ``systemctl ORDER``, which must succeed, and return its output."""
        return self.succeed(f"systemctl {order}", timeout_s=timeout_s)

    def read_file(self, path: str) -> bytes:
        """Return the content of *path* in the machine."""
        done = self.execute(f"cat -- {shlex.quote(path)}")
        if done.status:
            raise ExpectationError(f"{self.name}: {path} can't be read: {_tail(done)}")
        return done.stdout

    def write_file(self, path: str, content: bytes, *, mode: str = "0644") -> None:
        """Write *content* to *path* in the machine."""
        quoted = shlex.quote(path)
        self.succeed(f"umask 077; : >{quoted}")
        for start in range(0, len(content), PIECE):
            piece = base64.b64encode(content[start : start + PIECE]).decode()
            self.succeed(f"base64 --decode >>{quoted} <<<{piece}")
        self.succeed(f"chmod {mode} {quoted}")

    def copy_to(self, source: Path, path: str) -> None:
        """Copy the file *source* of this machine to *path* in the other."""
        self.write_file(path, source.read_bytes(), mode=f"{source.stat().st_mode & 0o777:o}")

    def copy_from(self, path: str, target: Path) -> None:
        """Copy the file *path* in the machine to *target* here."""
        target.write_bytes(self.read_file(path))

    def set_clock(self, seconds: float | None = None, *, further: str = "true") -> None:
        """Set the machine's clock to *seconds* since 1970, or to this host's, and do *further*, a script."""
        now = time.time() if seconds is None else seconds
        is_set = f"(( EPOCHSECONDS - {now:.0f} < 3600 && {now:.0f} - EPOCHSECONDS < 60 ))"
        script = f"date --utc --set=@{now:.3f} >/dev/null && {is_set} && {{ {further}; }}"
        done = self.execute(script, clock_jumps=True)
        if done.status:
            raise ExpectationError(f"{self.name}: the clock can't be set: {_what(script)} {_outcome(done)}")

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

    def wait_until_fails(self, script: str, *, within_s: float = 60) -> str:
        """Return all that *script* said once its status is not 0 any more."""
        last = Completed(0, b"", b"")

        def look() -> Seen:
            nonlocal last
            last = self.execute(script, timeout_s=within_s)
            return Seen(last.status not in (0, TIMED_OUT), _outcome(last))

        self._wait(f"failure of {_what(script)}", look, within_s)
        return last.text + last.stderr.decode(errors="replace")

    def wait_for_file(self, path: str, *, within_s: float = 60) -> None:
        """Return when there is something at *path*."""
        self.wait_until_succeeds(f"test -e {shlex.quote(path)}", within_s=within_s)

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

    def wait_for_closed_port(self, port: int, *, address: str = "127.0.0.1", within_s: float = 60) -> None:
        """Return when a TCP connection to *address* and *port* fails from inside the machine."""
        self.wait_until_fails(f"exec 5<>/dev/tcp/{address}/{port}", within_s=within_s)

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

    def _wait(self, what: str, look: Callable[[], Seen], within_s: float, *, every_s: float = 0.25) -> None:
        wait_for(f"{what} on {self.name}", look, within_s=self.patience.seconds(within_s), every_s=every_s)


def _what(script: str) -> str:
    lines = script.strip().splitlines()
    return repr(lines[0] if lines else "") + (" …" if len(lines) > 1 else "")


def _outcome(done: Completed) -> str:
    if done.status == TIMED_OUT:
        return f"did not end in time; it said {_tail(done)}"
    return f"ended with status {done.status}; it said {_tail(done)}"


def _tail(done: Completed) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()[-600:] or "nothing"
