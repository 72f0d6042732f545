"""What `boot` calls: the booted pair, for one command or a prompt."""

from collections.abc import Sequence

from imagebuilder.errors import ImagebuilderError
from imagebuilder.vm.host import Host
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.outside import command_environment
from imagebuilder.vm.prompt import Prompt
from imagebuilder.vm.session import Session, Subject, session

OUTSIDE = ("stranger", "user", "lan")
"""Hosts that a command can be run from."""


def boot_pair(subject: Subject, *, from_host: str = "stranger", command: Sequence[str] = ()) -> int:
    """Boot the pair of *subject*; once mail flows run *command* as the host *from_host*, return its exit status.

    Without a command, open a prompt. The command has our standard streams and the host's own programs; names of the
    world resolve, and the variables of `command_environment` are set.
    """
    if from_host not in OUTSIDE:
        raise ImagebuilderError(f"there is no outside host {from_host!r}", hint=f"one of: {', '.join(OUTSIDE)}")

    def work() -> int:
        with session(subject) as running:
            pair = running.booted()
            host = _host(running, from_host)
            variables = command_environment(running, host)
            if command:
                return host.call(command, env=variables)
            Prompt(running, pair, variables).cmdloop()
            return 0

    return inside(work)


def _host(running: Session, name: str) -> Host:
    return {host.name: host for host in running.world.hosts}[name]
