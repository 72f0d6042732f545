"""A machine of the bed, inside and outside: its power, and its root shell. Waits for its boot."""

import re
import time
from collections.abc import Callable

from imagebuilder.run import say
from imagebuilder.vm.agent import AgentError, Completed
from imagebuilder.vm.chassis import Chassis, MachineError
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.waiting import HopelessError, Seen

HELLO_S = 25.0
"""Seconds that a machine with its own processor may take from power-on to the root shell."""
SETTLED_S = 30.0
"""Seconds that it may then take until systemd has nothing left to start."""
JOBS_S = 5.0
"""Seconds that what comes after that may take, as a certificate that has just arrived."""


class Machine(Chassis, Inside):
    """One machine, with a root shell inside."""

    def execute(self, script: str, *, timeout_s: float = 60, clock_jumps: bool = False) -> Completed:
        """Run *script* by bash as root and return what it did; nothing kills it in there if its *clock_jumps*."""
        self._wait_for_shell()
        try:
            return self._agent.run(script, timeout_s=self.patience.seconds(timeout_s), clock_jumps=clock_jumps)
        except AgentError as error:
            raise MachineError(f"{self.name}: {error}{self._if_dead()}") from error

    # --- waits

    def wait_for_console(self, pattern: str, *, within_s: float = 60) -> str:
        """Return what the regular expression *pattern* found on the serial console, as soon as it does."""
        return self._wait_for_text("console", self.console, pattern, within_s)

    def wait_for_journal(self, pattern: str, *, within_s: float = 60) -> str:
        """Return what the regular expression *pattern* found in the live journal, as soon as it does."""
        return self._wait_for_text("journal", lambda: self.journal_file.read_text(errors="replace"), pattern, within_s)

    def _wait_for_text(self, title: str, read: Callable[[], str], pattern: str, within_s: float) -> str:
        found: list[str] = []

        def look() -> Seen:
            text = read()
            found.extend(match[0] for match in re.finditer(pattern, text, re.MULTILINE))
            if not found and not self.running:
                raise HopelessError(f"{self.name} is off, and its {title} has no {pattern!r}")
            return Seen(bool(found), (text.strip().splitlines() or ["nothing"])[-1])

        self._wait(f"{pattern!r} in the {title}", look, within_s)
        return found[0]

    def wait_for_shutdown(self, *, within_s: float = 30) -> None:
        """Return when the machine has switched itself off."""
        self._wait("the end", lambda: Seen(not self.running, "it runs"), within_s)
        self.kill()

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
        self._wait("the end of jobs that came after the boot, as of a certificate", self._no_jobs, JOBS_S)
        return self.settled_s

    def _no_jobs(self) -> Seen:
        jobs = self.succeed("systemctl list-jobs --no-legend --plain").strip()
        return Seen(not jobs, jobs)

    # --- inside

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
