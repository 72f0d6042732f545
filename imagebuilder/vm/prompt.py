"""The prompt of a booted pair: shells, mail, faults, and what happens. Reads the terminal."""

import cmd
import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.vm import faults, terminal
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.session import Session

LEAVE = "Ctrl-] leads back to this prompt"


class Prompt(cmd.Cmd):
    """What `boot` opens without a command, and `bed` at a failure with `test --pdb`."""

    prompt = "bed> "

    def __init__(self, session: Session, pair: Pair, variables: Mapping[str, str]) -> None:
        super().__init__()
        self._session = session
        self._pair = pair
        self._variables = dict(variables)
        shown = "".join(f"  {name}={value}\n" for name, value in self._variables.items())
        self.intro = f"`hosts` lists who is there, `help` what can be done\n{shown}"

    # --- who is there

    def do_hosts(self, _: str) -> None:
        """List machines and outside hosts with their addresses."""
        places, topology = self._session.world.places, self._session.subject.topology
        own = {"proxy": (topology.proxy.ipv4.ip, topology.proxy.ipv6 and topology.proxy.ipv6.ip)}
        own["client"] = (places.client.ipv4.ip, None)
        for name, machine in self._machines.items():
            state = machine.qmp.command("query-status")["status"] if machine.running else "off"
            self._print(f"{name:9} {_line(own[name])}  machine, {state}\n")
        for host in self._session.world.hosts:
            self._print(f"{host.name:9} {_line((host.ipv4, host.ipv6))}\n")

    def do_proxy(self, line: str) -> None:
        """Open a root shell on the proxy's own terminal, or run one line there: proxy [LINE]."""
        self._shell(self._machines["proxy"], line)

    def do_client(self, line: str) -> None:
        """Open a root shell on the client's own terminal, or run one line there: client [LINE]."""
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

    # --- what happens

    def do_journal(self, line: str) -> None:
        """Follow a machine's journal until Ctrl-C, lines with WORD only if given: journal proxy|client [WORD]."""
        name, word = (*line.split(maxsplit=1), "", "")[:2]
        with self._machine(name).journal_file.open(errors="replace") as journal, contextlib.suppress(KeyboardInterrupt):
            for shown in journal.readlines()[-40:]:
                self._print(shown if word in shown else "")
            while True:
                shown = journal.readline()
                if shown:
                    self._print(shown if word in shown else "")
                else:
                    time.sleep(0.2)

    def do_send(self, line: str) -> None:
        """Let the stranger send a mail to the first mailbox, and wait for it there: send [SUBJECT]."""
        person, subject = self._session.person(0), line or f"hello at {time.strftime('%H:%M:%S')}"
        if refused := self._session.stranger().send(person.address, subject, "Is this on?\n"):
            self._print(f"refused: {refused}\n")
            return
        message = person.receive(subject)
        self._print(f"{subject!r} is in {message.folder} of {person.address} after {message.waited_s:.1f} s\n")

    def do_pcap(self, line: str) -> None:
        """Keep a machine's packets in a file, until the second call: pcap proxy|client."""
        machine = self._machine(line)
        file = self._file(f"{machine.name}.pcap")
        if machine.capturing is None:
            machine.capture(file)
            self._print(f"packets of {machine.name} go to {file}; `pcap {machine.name}` ends that\n")
        else:
            self._print(f"{machine.end_capture()}\n")

    def do_screenshot(self, line: str) -> None:
        """Write what a machine's screen shows to a PNG file: screenshot proxy|client."""
        file = self._file(f"{self._machine(line).name}.png")
        self._machine(line).screenshot(file)
        self._print(f"{file}\n")

    # --- what goes wrong

    def do_fault(self, line: str) -> None:
        """Let something go wrong; without a name, list what can: fault [NAME [WORDS]]."""
        if line:
            name, *words = shlex.split(line)
            faults.apply(self._pair, name, words)
            return
        for name, fault in faults.FAULTS.items():
            self._print(f"  {f'{name} {fault.usage}':44} {fault.what}\n")

    def do_mend(self, _: str) -> None:
        """Take back what was done by faults, where that can be."""
        faults.mend(self._pair)

    def do_fresh(self, _: str) -> None:
        """Throw the pair away and go on from where mail first flowed."""
        self._session.world.mend()
        self._pair = self._session.fresh()

    def do_quit(self, _: str) -> bool:
        """Leave; what `boot` booted is switched off."""
        return True

    do_EOF = do_quit  # noqa: N815 (the name that cmd looks for)

    # --- inside

    def emptyline(self) -> bool:
        """Do nothing."""
        return False

    def default(self, line: str) -> None:
        """Say so when a word is no command."""
        self._print(f"there is no {line.split()[0]!r} here; `help` lists what there is\n")

    def onecmd(self, line: str) -> bool:
        """Run one line; what goes wrong is said and the prompt stays."""
        try:
            return bool(super().onecmd(line))
        except (ImagebuilderError, AssertionError, OSError) as error:
            hint = f"\nhint: {error.hint}" if isinstance(error, ImagebuilderError) and error.hint else ""
            self._print(f"error: {error}{hint}\n")
        except KeyboardInterrupt:
            self._print("\n")
        return False

    @property
    def _machines(self) -> dict[str, Machine]:
        return {machine.name: machine for machine in self._pair.machines.values()}

    def _machine(self, name: str) -> Machine:
        if name.strip() not in self._machines:
            raise ImagebuilderError(f"there is no machine {name!r}", hint=" or ".join(self._machines))
        return self._machines[name.strip()]

    def _file(self, name: str) -> Path:
        """Return a path for *name* that is not there yet, in the run's folder."""
        folder = self._session.reports
        names = (name, *(f"{number}.{name}" for number in range(2, 1000)))
        return next(folder / each for each in names if not (folder / each).exists())

    def _shell(self, machine: Machine, line: str) -> None:
        if line:
            done = machine.execute(line, timeout_s=600)
            sys.stdout.buffer.write(done.stdout + done.stderr)
            self._print(f"[status {done.status}]\n" if done.status else "")
            return
        self._print(f"{LEAVE}\n")
        terminal.attach(machine.hardware.terminal_socket)
        self._print("\n")

    def _outside(self, name: str, line: str) -> None:
        host = next(host for host in self._session.world.hosts if host.name == name)
        shell = os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
        status = host.call([shell, "-c", line] if line else [shell], env=self._variables)
        self._print(f"[status {status}]\n" if status else "")

    def _print(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _line(addresses: tuple[object, ...]) -> str:
    return f"{', '.join(str(address) for address in addresses if address):40}"
