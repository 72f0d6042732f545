"""What the command line calls: run the acceptance tests, or boot the pair for one command or a prompt."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.pair import BootTimes
from imagebuilder.vm.people import Journey
from imagebuilder.vm.plugin import SCENARIOS, Bed
from imagebuilder.vm.prompt import Prompt
from imagebuilder.vm.readiness import receiving_mailbox
from imagebuilder.vm.session import Session, Subject, session
from imagebuilder.vm.world import Host

OUTSIDE = ("stranger", "user", "lan")
"""Hosts that a command can be run from."""


@dataclass(frozen=True)
class Summary:
    """How a run of the acceptance tests went."""

    status: int
    """0: all that ran passed; 1: something failed; 5: nothing was selected. As pytest's own."""
    outcomes: Mapping[str, str]
    """passed, failed or skipped, by test."""
    seconds: float
    boot: BootTimes | None
    """Of the first boot; None when no test needed the pair."""
    restores_s: tuple[float, ...]
    """Seconds of each restore."""
    journeys: tuple[Journey, ...]
    """The messages that arrived, in this order."""
    report: Path
    """JUnit XML."""
    accelerator: str
    """kvm or tcg."""


def run_scenarios(
    subject: Subject,
    *,
    expression: str | None = None,
    tests: Sequence[Path] = (SCENARIOS,),
    pytest_arguments: Sequence[str] = (),
) -> Summary:
    """Run the acceptance tests that match *expression* (all: None) on *subject* and return how it went.

    Reports, consoles and journals stay in its folder; nothing else on this machine is changed.
    """

    def work() -> Summary:
        started = time.monotonic()
        with session(subject) as running:
            bed = Bed(running)
            report = subject.folder / "junit.xml"
            argv = ["-c", str(SCENARIOS / "pytest.ini"), "-p", "no:cacheprovider", f"--junit-xml={report}"]
            argv += [
                "--rootdir",
                str(SCENARIOS),
                "-v",
                "--capture=tee-sys",
                "--tb=short",
                "--durations=0",
                "--durations-min=1",
            ]
            argv += ["-k", expression] if expression else []
            # Standard output is for the result of the command that called us.
            with redirect_stdout(sys.stderr):
                status = pytest.main([*argv, *pytest_arguments, *map(str, tests)], plugins=[bed])
            return Summary(
                status=int(status),
                outcomes=dict(bed.outcomes),
                seconds=time.monotonic() - started,
                boot=running.times,
                restores_s=tuple(running.restores_s),
                journeys=tuple(running.journeys),
                report=report,
                accelerator=str(running.accelerator.kind),
            )

    return inside(work)


def boot_pair(subject: Subject, *, from_host: str = "stranger", command: Sequence[str] = ()) -> int:
    """Boot the pair of *subject*; once mail flows run *command* as the host *from_host*, return its exit status.

    Without a command, open a prompt. The command has our standard streams and the host's own programs; names of the
    world resolve, and the variables of `command_environment` are set.
    """
    if from_host not in OUTSIDE:
        raise ImagebuilderError(f"there is no outside host {from_host!r}", hint=f"one of: {', '.join(OUTSIDE)}")

    def work() -> int:
        with session(subject) as running:
            running.booted()
            host = _host(running, from_host)
            variables = command_environment(running, host)
            if command:
                return host.call(command, env=variables)
            Prompt(running, variables).cmdloop()
            return 0

    return inside(work)


def command_environment(running: Session, host: Host) -> dict[str, str]:
    """Return what a command on the outside host *host* finds in its environment."""
    topology, places = running.subject.topology, running.world.places
    mailbox = receiving_mailbox(topology)
    # The client itself for its neighbours; for everybody else, what they can reach of home: the line's public side.
    home = places.client.ipv4.ip if host == running.world.lan else places.home.ipv4.ip
    return {
        "IMAGEBUILDER_MAIL_HOST": topology.proxy.hostname,
        "IMAGEBUILDER_PROXY_IPV4": str(topology.proxy.ipv4.ip),
        "IMAGEBUILDER_PROXY_IPV6": str(topology.proxy.ipv6.ip) if topology.proxy.ipv6 else "",
        "IMAGEBUILDER_HOME_IPV4": str(home),
        "IMAGEBUILDER_MAILBOX": mailbox,
        "IMAGEBUILDER_PASSWORD": running.passwords[mailbox],
    }


def _host(running: Session, name: str) -> Host:
    return {host.name: host for host in running.world.hosts}[name]
