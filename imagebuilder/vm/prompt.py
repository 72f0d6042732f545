"""The prompt of a booted pair: a shell for each machine, the outside hosts, and what happens. Reads the terminal."""

import cmd
import os
import shutil
import sys
from collections.abc import Mapping

from imagebuilder.errors import ImagebuilderError
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.session import Session

DIRECTORY = "/run/bed-shell/directory"
"""Where a machine's shell keeps its working directory between two lines."""


class Prompt(cmd.Cmd):
    """What `boot` opens without a command."""

    prompt = "bed> "

    def __init__(self, session: Session, variables: Mapping[str, str]) -> None:
        super().__init__()
        self._session = session
        self._variables = dict(variables)
        pair = session.booted()
        self._machines = {machine.name: machine for machine in pair.machines.values()}
        shown = "".join(f"  {name}={value}\n" for name, value in self._variables.items())
        self.intro = f"mail flows between these machines; `help` lists what can be done here\n{shown}"

    def do_proxy(self, line: str) -> None:
        """Open a root shell on the proxy, or run one line there: proxy [LINE]."""
        self._shell(self._machines["proxy"], line)

    def do_client(self, line: str) -> None:
        """Open a root shell on the client, or run one line there: client [LINE]."""
        self._shell(self._machines["client"], line)

    def do_stranger(self, line: str) -> None:
        """Open this machine's shell on the stranger's host, or run one line there: stranger [LINE]."""
        self._outside("stranger", line)

    def do_user(self, line: str) -> None:
        """Open this machine's shell on the roaming user's host, or run one line there: user [LINE]."""
        self._outside("user", line)

    def do_lan(self, line: str) -> None:
        """Open this machine's shell on a neighbour of the client at home, or run one line there: lan [LINE]."""
        self._outside("lan", line)

    def do_journal(self, line: str) -> None:
        """Show the end of a machine's journal: journal proxy|client [UNIT]."""
        name, _, unit = line.partition(" ")
        if name in self._machines:
            self._print(self._machines[name].journal(unit.strip() or None, lines=50))
        else:
            self._print("journal of which machine? proxy or client\n")

    def do_send(self, line: str) -> None:
        """Let the stranger send a mail to the first mailbox: send [SUBJECT]."""
        person = self._session.person(0)
        refused = self._session.stranger().send(person.address, line or "hello", "Is this on?\n")
        self._print(f"refused: {refused}\n" if refused else f"sent to {person.address}\n")

    def do_quit(self, _: str) -> bool:
        """Switch everything off."""
        return True

    do_EOF = do_quit  # noqa: N815 (the name that cmd looks for)

    def emptyline(self) -> bool:
        """Do nothing."""
        return False

    def onecmd(self, line: str) -> bool:
        """Run one line; what goes wrong is said and the prompt stays."""
        try:
            return bool(super().onecmd(line))
        except (ImagebuilderError, AssertionError, OSError) as error:
            self._print(f"error: {error}\n")
            return False

    def _shell(self, machine: Machine, line: str) -> None:
        if line:
            self._run(machine, line)
            return
        machine.succeed(f"pwd >{DIRECTORY}")
        while (
            typed := self._typed(f"root@{machine.name}:{machine.succeed(f'cat {DIRECTORY}').strip()}# ")
        ) is not None:
            self._run(machine, f'cd "$(<{DIRECTORY})"; {typed}\nstatus=$?; pwd >{DIRECTORY}; exit $status')

    def _run(self, machine: Machine, script: str) -> None:
        done = machine.execute(script, timeout_s=600)
        sys.stdout.buffer.write(done.stdout + done.stderr)
        self._print(f"[status {done.status}]\n" if done.status else "")

    def _outside(self, name: str, line: str) -> None:
        host = next(host for host in self._session.world.hosts if host.name == name)
        shell = os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
        status = host.call([shell, "-c", line] if line else [shell], env=self._variables)
        self._print(f"[status {status}]\n" if status else "")

    def _typed(self, question: str) -> str | None:
        """Return the next line, or None at the end: exit, or Ctrl-D."""
        try:
            typed = input(question)
        except EOFError:
            self._print("\n")
            return None
        return None if typed.strip() in ("exit", "logout") else typed

    def _print(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
