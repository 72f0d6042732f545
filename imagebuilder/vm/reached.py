"""A deployed host, reached by ssh: at the end of the connection runs the shell of the bed. Owns one process of ssh."""

import os
import shlex
import socket
import subprocess
import tempfile
from types import TracebackType

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import end, environment
from imagebuilder.shipping.remote import SILENCE_S, Address, RemoteError, explained, ssh_environment
from imagebuilder.topology import Role
from imagebuilder.vm.agent import SHELL, Agent, AgentError, Completed
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.waiting import Patience

FOLDER = "/run/imagebuilder-test"
"""How the name of our folder over there begins."""
HELLO_S = 30.0
"""Seconds that a login may take."""
FAREWELL_S = 30.0
"""Seconds that the host may take to put away what we brought."""


class Reached(Inside):
    """The host of *role*; use it as a context manager, which takes what it brought along away with it.

    *farewell* is a script that the host runs when the connection ends, whatever ends it; the shell's own folder,
    $BED_FOLDER, is there until then.
    """

    def __init__(self, role: Role, address: Address, patience: Patience, *, farewell: str = "true") -> None:
        self.name = str(role)
        self.patience = patience
        self._address = address
        at_the_end = shlex.quote(f'cd /\n{farewell}\nrm -rf "$BED_FOLDER"')
        self._script = f"BED_FOLDER=$(mktemp -d {FOLDER}.XXXXXX) || exit 1\ntrap {at_the_end} EXIT\n{SHELL}"
        self._agent = Agent(self._dial)
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as we are)

    def __enter__(self) -> "Reached":
        try:
            self._agent.connect()
            if not self._agent.wait_for_hello(timeout_s=self.patience.seconds(HELLO_S)):
                raise RemoteError(f"{self._address} lets us in and starts no shell")
        except BaseException as error:
            why = self._lost() if isinstance(error, AgentError) else error
            self._hang_up()
            raise why from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hang_up()

    @property
    def running(self) -> bool:
        """Whether the connection stands."""
        return self._process is not None and self._process.poll() is None

    def execute(self, script: str, *, timeout_s: float = 60, clock_jumps: bool = False) -> Completed:
        """Run *script* by bash as root and return what it did; raise RemoteError when the connection is lost."""
        try:
            return self._agent.run(script, timeout_s=self.patience.seconds(timeout_s), clock_jumps=clock_jumps)
        except AgentError:
            raise self._lost() from None

    def _dial(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # The login shell may be any; this much they all understand.
            argv = self._address.argv(f"exec bash -c {shlex.quote(self._script)}")
            try:
                self._process = subprocess.Popen(
                    argv,
                    env=environment(ssh_environment()),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._complaints,
                )
            except FileNotFoundError:
                ours.close()
                raise ImagebuilderError(
                    "there is no program 'ssh' on this machine", hint="apt install openssh-client"
                ) from None
        return ours

    def _lost(self) -> RemoteError:
        """Return why there is nothing more to hear."""
        process = self._process
        assert process is not None
        try:
            process.wait(SILENCE_S)
        except subprocess.TimeoutExpired:
            return RemoteError(f"{self._address} does not answer any more")
        self._complaints.seek(0, os.SEEK_SET)
        said = self._complaints.read().decode(errors="replace").splitlines()
        return explained(self._address, [line.strip() for line in said if line.strip()], process.returncode)

    def _hang_up(self) -> None:
        """End the connection, once the host has said farewell."""
        self._agent.close()
        if self._process is not None:
            try:
                self._process.wait(self.patience.seconds(FAREWELL_S))
            except subprocess.TimeoutExpired:
                end(self._process)
        self._complaints.close()
