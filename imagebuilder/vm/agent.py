"""The root shell inside a machine: two credentials put it there at run time, a virtio-serial port leads to it.

Where a machine is reached by ssh, the same shell runs at the end of the connection. A request is ``ID TIMEOUT
LENGTH\n`` and LENGTH bytes of bash; the answer is ``ID STATUS OUT ERR\n`` and as many bytes of standard output and
standard error as these two numbers say. Nothing is encoded, so any byte passes. A starting shell says ``hello
BOOT-ID\n``. Owns one socket.
"""

import base64
import itertools
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ImagebuilderError

PORT = "bed.shell"
"""Name of the virtio-serial port of the shell."""
JOURNAL_PORT = "bed.journal"
"""Name of the virtio-serial port that the journal is copied to."""
TERMINAL = "hvc0"
"""The machine's end of the terminal for people."""
TERMINAL_DROPIN = """\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=
ExecStart=-/bin/bash --login
WorkingDirectory=/root
"""
"""Instead of a login: who sits here owns the machine."""
TIMED_OUT = 124
"""Status of a script that was killed as its time was up, as timeout(1) has it."""
AGES_S = 100 * 365 * 86400.0
"""More than any clock jumps by."""
GRACE_S = 15.0
"""Seconds that the answer may come after the script's own time is up."""

SHELL = r"""
export LC_ALL=C HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
folder=${RUNTIME_DIRECTORY:-${BED_FOLDER:?}}
cd "$folder" || exit 1
rm -f ended && mkfifo ended && exec 4<>ended || exit 1
set -m
read -r boot </proc/sys/kernel/random/boot_id
printf 'hello %s\n' "$boot"
while IFS=' ' read -r id timeout length; do
    script=
    (( length )) && read -r -N "$length" script
    { ( cd /; exec 4<&- ; eval "$script" ) </dev/null >out 2>err; echo "$id $?" >&4; } &
    status=124 said= code=
    while read -r -t "$timeout" -u 4 said code; do
        [[ $said == "$id" ]] && { status=$code; break; }
    done
    (( status == 124 )) && kill -KILL -- "-$!" 2>/dev/null
    disown -a 2>/dev/null
    if [[ -s out || -s err ]]; then
        { read -r out; read -r err; } < <(stat -c %s out err)
        printf '%s %s %s %s\n' "$id" "$status" "$out" "$err"
        head -q -c "$out" out
        head -q -c "$err" err
    else
        printf '%s %s 0 0\n' "$id" "$status"
    fi
    rm -f out err
done
"""
"""What runs in the machine: bash alone does the talking, so that a short command takes two forks."""


FOLLOW = (
    'show="journalctl --boot --follow --lines=all --output=short-iso-precise --no-hostname --utc'
    ' --cursor-file=/run/bed-journal/cursor"; '
    "$$show & until test -e /run/systemd/journal/flushed; do sleep 0.5; done; kill $$!; wait; exec $$show"
)
"""Copies the journal; afresh when it moves from /run to /var, where a running journalctl does not look."""


class AgentError(ImagebuilderError):
    """The shell inside a machine does not answer."""


@dataclass(frozen=True)
class Completed:
    """What a script inside a machine did."""

    status: int
    """Exit status; 124 when it was killed as its time was up."""
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")


def credentials() -> dict[str, bytes]:
    """Return the credentials that give a machine its root shell and a live copy of its journal. Pure."""
    encoded = base64.b64encode(SHELL.encode()).decode()
    shell = _unit(
        "Root shell of the test bed",
        PORT,
        f"""/bin/bash -c 'eval "$$(echo {encoded} | base64 -d)"'""",
        f"StandardInput=file:/dev/virtio-ports/{PORT}\nRuntimeDirectory=bed-shell\n",
    )
    journal = _unit(
        "Live journal of the test bed",
        JOURNAL_PORT,
        f"/bin/bash -c '{FOLLOW}'",
        "RuntimeDirectory=bed-journal\n",
    )
    wanted = "[Unit]\nWants=bed-shell.service bed-journal.service\n"
    return {
        "systemd.extra-unit.bed-shell.service": shell.encode(),
        "systemd.extra-unit.bed-journal.service": journal.encode(),
        "systemd.unit-dropin.sysinit.target~bed": wanted.encode(),
        # systemd itself puts a login on the terminal of virtualizers
        f"systemd.unit-dropin.serial-getty@{TERMINAL}.service~bed": TERMINAL_DROPIN.encode(),
    }


def _unit(description: str, port: str, command: str, further: str) -> str:
    # The port's device appears when udev gets to it: until then starting fails and is tried again.
    return (
        f"[Unit]\nDescription={description}\nDefaultDependencies=no\nAfter=systemd-journald.socket\n"
        "ConditionPathExists=!/etc/initrd-release\nStartLimitIntervalSec=0\n"
        f"[Service]\nExecStart={command}\nStandardOutput=file:/dev/virtio-ports/{port}\n{further}"
        "StandardError=journal\nRestart=always\nRestartSec=300ms\nOOMScoreAdjust=-1000\nTasksMax=infinity\n"
        "IgnoreSIGPIPE=no\nKillMode=mixed\n"
    )


def at_port(path: Path) -> socket.socket:
    """Return the way to the shell of a machine whose virtio-serial port ends in the socket *path*."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise AgentError(f"the shell's socket {path} can't be opened: {error}") from error
    return connection


class Agent:
    """The host's end of a root shell; one script at a time, from any thread."""

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self._dial = dial
        """Opens the way to the shell; raises AgentError when there is none."""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._ids = itertools.count(1)
        self.boot_id: str | None = None
        """Which boot of the machine the shell belongs to; None until it said hello."""

    def connect(self) -> None:
        """Open the way to the shell afresh; what was under way is forgotten."""
        self.close()
        self._socket = self._dial()
        self._buffer.clear()

    def close(self) -> None:
        """Forget the connection and which boot it led to."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self.boot_id = None

    def wait_for_hello(self, *, timeout_s: float) -> bool:
        """Return whether the shell has said hello within *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while self.boot_id is None:
                try:
                    line = self._line(deadline)
                except TimeoutError:
                    return False
                self._notice(line)
        return True

    def run(self, script: str, *, timeout_s: float, clock_jumps: bool = False) -> Completed:
        """Run *script* as root by bash, killed after *timeout_s*, and return what it did.

        The shell inside counts by its clock: when *clock_jumps*, only we give up in time, and the script goes on.
        """
        with self._lock:
            identity = str(next(self._ids))
            encoded = script.encode()
            inside_s = AGES_S if clock_jumps else timeout_s
            header = f"{identity} {inside_s:.3f} {len(encoded)}\n".encode()
            deadline = time.monotonic() + timeout_s + GRACE_S
            try:
                self._send(header + encoded, deadline)
                return self._answer(identity, deadline)
            except TimeoutError as error:
                said = script.strip().splitlines()[0] if script.strip() else "an empty script"
                raise AgentError(f"the shell did not answer within {timeout_s + GRACE_S:.0f} s to: {said}") from error

    def _answer(self, identity: str, deadline: float) -> Completed:
        while True:
            line = self._line(deadline)
            if self._notice(line):
                raise AgentError("the machine started afresh while a script ran")
            answered, status, out, err = line.split()
            stdout = self._exactly(int(out), deadline)
            stderr = self._exactly(int(err), deadline)
            if answered == identity:
                return Completed(int(status), stdout, stderr)

    def _notice(self, line: str) -> bool:
        if not line.startswith("hello "):
            return False
        self.boot_id = line.split()[1]
        return True

    def _send(self, content: bytes, deadline: float) -> None:
        try:
            self._connection(deadline).sendall(content)
        except TimeoutError:
            raise
        except OSError as error:
            raise AgentError(f"the shell is gone: {error}") from error

    def _line(self, deadline: float) -> str:
        while (end := self._buffer.find(b"\n")) < 0:
            self._receive(deadline)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.decode(errors="replace")

    def _exactly(self, length: int, deadline: float) -> bytes:
        while len(self._buffer) < length:
            self._receive(deadline)
        content = bytes(self._buffer[:length])
        del self._buffer[:length]
        return content

    def _receive(self, deadline: float) -> None:
        try:
            received = self._connection(deadline).recv(1 << 20)
        except TimeoutError:
            raise
        except OSError as error:
            raise AgentError(f"the shell is gone: {error}") from error
        if not received:
            raise AgentError("the machine closed the shell")
        self._buffer += received

    def _connection(self, deadline: float) -> socket.socket:
        if self._socket is None:
            raise AgentError("the shell is not connected")
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket
