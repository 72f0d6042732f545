"""A shell on another machine, by the ssh of this one: one login, in which scripts are run one after the other.

Runs the host's ssh and no library's: keys in the agent or in hardware, jump hosts and known hosts are then those that
the operator's own ``ssh HOST`` uses. The other side needs a POSIX shell and dd.

How it is used, here for a machine that becomes another while we look on::

    address = parse_address("ssh://root@198.51.100.7")
    with connected(address) as shell:
        memory = shell.text("cat /proc/meminfo")           # RemoteError when its status is not 0
        for line in shell.lines("lsblk"): ...              # as they come
        shell.text("cat >/run/kernel", feed=[content])     # the script must read exactly what is fed: see TAKE
    later = replace(address, known_hosts=path)              # it has another host key now
    with connected(later) as shell: ...

`transfer.upload` writes a disk over such a shell and, when the connection is cut, over the next one.
"""

import contextlib
import os
import queue
import re
import secrets
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import started

CONNECT_S = 15
"""Longest wait for an answer to the first packet."""
SILENCE_S = 30
"""A peer that doesn't answer for so long is gone."""
LINE_S = 600
"""Longest wait for the next line that a script prints."""
OF_THE_SESSION = (
    "DISPLAY", "LOGNAME", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "SSH_AUTH_SOCK", "TERM", "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
)  # fmt: skip
"""What ssh finds the operator's agent by, and asks for a passphrase with."""

AGENT = """\
exec 2>&1
LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL PATH
take() {
    [ "$1" -lt 65536 ] || dd bs=65536 count=$(($1 / 65536)) iflag=fullblock 2>/dev/null
    [ $(($1 % 65536)) -eq 0 ] || dd bs=$(($1 % 65536)) count=1 iflag=fullblock 2>/dev/null
}
echo "$end ready"
while read -r length; do
    script=$(take "$length")
    eval "$script"
    printf '\\n%s %s\\n' "$end" "$?"
done
"""
"""What runs over there: it reads the length of a script and the script, runs it, and prints a line with its status.

`take N` gives a script the next N bytes that it is fed, and never one more.
"""


class RemoteError(ImagebuilderError):
    """The other machine does not do what it is asked."""


class LostError(RemoteError):
    """The connection is gone, or was not to be had; another try may help."""


class HostKeyError(RemoteError):
    """Somebody else answers than was expected."""


class NotThereError(RemoteError):
    """A machine was named that can't be meant."""

    status = ExitStatus.WRONG_INPUT


@dataclass(frozen=True)
class Address:
    """Whom to log in to, and how."""

    host: str
    user: str = "root"
    port: int | None = None
    """None: what ssh's own settings say."""
    identity: Path | None = None
    """Private key to offer, beside those of ssh's own settings."""
    known_hosts: Path | None = None
    """File with the host's key; None: the operator's own."""
    options: tuple[str, ...] = ()
    """Further settings of ssh, as after -o; they win."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}{f':{self.port}' if self.port else ''}"

    def through(self, gate: "Address") -> "Address":
        """Return the same host as it is reached through *gate*, whose key is checked as well. Pure, as `argv`."""
        way = [*gate.argv("")[:-3], "-W", "%h:%p", "--", f"{gate.user}@{gate.host}"]
        return replace(self, options=(*self.options, f"ProxyCommand={shlex.join(way)}"))

    def argv(self, command: str) -> list[str]:
        """Return the argv that runs *command* there. Pure, but for whether there is somebody to ask."""
        settings = [
            *self.options,
            # Who is at this terminal may type a passphrase; that a host's key is right is never asked in passing.
            *([] if sys.stderr.isatty() else ["BatchMode=yes"]),
            "StrictHostKeyChecking=yes",
            *([f"UserKnownHostsFile={self.known_hosts}", "GlobalKnownHostsFile=none"] if self.known_hosts else []),
            f"ConnectTimeout={CONNECT_S}",
            f"ServerAliveInterval={SILENCE_S // 3}",
            "ServerAliveCountMax=3",
            "ControlMaster=no",
            "ControlPath=none",
            "ForwardAgent=no",
            "ForwardX11=no",
            "RemoteCommand=none",
            "Compression=no",
        ]
        argv = ["ssh", "-T", *(word for setting in settings for word in ("-o", setting))]
        argv += ["-p", str(self.port)] if self.port else []
        argv += ["-i", str(self.identity)] if self.identity else []
        return [*argv, "--", f"{self.user}@{self.host}", command]


def parse_address(text: str) -> Address:
    """Return whom ``ssh://[user@]host[:port]`` or ``[user@]host`` names; raise NotThereError if it is neither. Pure."""
    try:
        parts = urlsplit(text if "://" in text else f"ssh://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    rest = parts.path.strip("/") or parts.query or parts.fragment or parts.password
    if parts.scheme != "ssh" or not host or rest or not re.fullmatch(r"[\w.:%-]+", host) or host.startswith("-"):
        raise NotThereError(f"{text!r} names no host", hint="ssh://root@198.51.100.7, or with a port at its end")
    if parts.username and not re.fullmatch(r"\w[\w.-]*", parts.username):
        raise NotThereError(f"{text!r}: {parts.username!r} is no user")
    return Address(host, parts.username or "root", port)


def ssh_environment() -> dict[str, str]:
    """Return what ssh gets of our environment beside what every child does."""
    return {name: os.environ[name] for name in OF_THE_SESSION if name in os.environ}


class Shell:
    """The shell that runs over there."""

    def __init__(self, address: Address, process: "subprocess.Popen[bytes]", end: str) -> None:
        self.address = address
        self.sent_bytes = 0
        """Handed to ssh so far."""
        self._process = process
        self._end = end
        self._said: queue.Queue[str | None] = queue.Queue()
        self._complaints: list[str] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_complaints)]
        for reader in self._readers:
            reader.start()

    def text(self, script: str, feed: Iterable[bytes] = ()) -> str:
        """Run *script* and return what it printed, without line feeds at the end."""
        return "\n".join(self.lines(script, feed)).rstrip("\n")

    def lines(self, script: str, feed: Iterable[bytes] = ()) -> Iterator[str]:
        """Run *script*, which reads exactly *feed*, and give each line as it is printed.

        Raises RemoteError at the end when its status is not 0, with what it printed last, and LostError when the
        connection is cut. It has the agent's own variables and open files, and keeps its own for the next one.
        """
        failures: list[BaseException] = []
        writer = threading.Thread(target=self._write, args=(script, feed, failures), daemon=True)
        writer.start()
        held: str | None = None  # an empty line in front of the status is ours
        last: list[str] = []
        while (line := self._next()) is not None:
            if line.startswith(f"{self._end} "):
                writer.join()
                if held:
                    yield held
                if failures:
                    raise failures[0]
                if (status := line.split()[1]) != "0":
                    said = "\n".join([*last, held or ""]).strip() or f"status {status}"
                    raise RemoteError(f"{self.address}: {said}")
                return
            if held is not None:
                yield held
                last = [*last[-5:], held]
            held = line
        if held:
            yield held
        raise self._ended()

    def _write(self, script: str, feed: Iterable[bytes], failures: list[BaseException]) -> None:
        pipe = self._process.stdin
        assert pipe
        content = script.encode()
        try:
            pipe.write(f"{len(content)}\n".encode() + content)
            pipe.flush()
            for piece in feed:
                pipe.write(piece)
                self.sent_bytes += len(piece)
            pipe.flush()
        except (BrokenPipeError, ValueError):
            pass  # whoever reads what it says learns why
        except BaseException as error:
            failures.append(error)
            self._process.kill()

    def _next(self) -> str | None:
        """Return the next line; None at the end of all."""
        try:
            return self._said.get(timeout=LINE_S)
        except queue.Empty:
            self._process.kill()
            raise LostError(f"{self.address} has said nothing for {LINE_S} s") from None

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as pipe:
            for line in pipe:
                self._said.put(line.decode(errors="replace").rstrip("\r\n"))
        self._said.put(None)

    def _read_complaints(self) -> None:
        assert self._process.stderr
        with self._process.stderr as pipe:
            for line in pipe:
                self._complaints = [*self._complaints[-40:], line.decode(errors="replace").strip()]

    def wait_until_ready(self) -> None:
        """Return once the agent runs; raise what kept us from it otherwise. What login scripts print is passed over."""
        while (line := self._next()) is not None:
            if line == f"{self._end} ready":
                return
        raise self._ended()

    def _ended(self) -> RemoteError:
        """Return why there is nothing more to hear."""
        self._process.wait(SILENCE_S)
        self._readers[1].join(SILENCE_S)
        return explained(self.address, [line for line in self._complaints if line], self._process.returncode)


@contextlib.contextmanager
def connected(address: Address) -> Iterator[Shell]:
    """Yield a shell at *address*; the connection ends with the block.

    Raises RemoteError with the reason when there can be none, LostError when another try might help.
    """
    end = f"--{secrets.token_hex(8)}--"
    # The login shell may be any; this much they all understand.
    argv = address.argv(f"exec sh -c {shlex.quote(f'end={end}; {AGENT}')}")
    with started(argv, env=ssh_environment(), hint="apt install openssh-client") as process:
        shell = Shell(address, process, end)
        shell.wait_until_ready()
        yield shell


REASONS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed",
        "has another host key than the one known here: it was set up anew, or somebody else answers in its place",
        "compare the fingerprint with the provider's console, then ssh-keygen -R HOST; or --known-hosts FILE",
        HostKeyError,
    ),
    (
        r"No \S+ host key is known|Host key verification failed",
        "has a host key that is not known here",
        "ssh HOST once, and compare the fingerprint with the provider's console; or --known-hosts FILE",
        HostKeyError,
    ),
    (
        r"Permission denied|Too many authentication failures|No supported authentication methods",
        "does not let this key in",
        "name the key that the rescue system was given: --identity FILE; ssh -v HOST shows which were offered",
        RemoteError,
    ),
    (
        r"bad permissions|UNPROTECTED PRIVATE KEY",
        "was not asked, as others can read the key",
        "chmod 600 it",
        RemoteError,
    ),
    (r"Could not resolve hostname|Name or service not known", "has no address", "check the name", LostError),
)
"""What ssh says, what is then the matter with the host, what to do, and what kind of failure it is."""
UNREACHABLE = r"Connection (refused|timed out|reset|closed)|timed out|No route|unreachable|banner exchange|Broken pipe"


def explained(address: Address, complaints: Sequence[str], returncode: int) -> RemoteError:
    """Return what it means that ssh ended with *returncode* after *complaints*. Pure."""
    said = "\n".join(complaints)
    for pattern, meaning, hint, kind in REASONS:
        if re.search(pattern, said, re.IGNORECASE):
            return kind(f"{address} {meaning}", hint=hint.replace("HOST", address.host))
    last = complaints[-1] if complaints else ""
    hint = f"ssh -v {address.user}@{address.host} shows where it ends"
    if re.search(UNREACHABLE, said, re.IGNORECASE):
        return LostError(f"{address} can't be reached: {last.removeprefix('ssh: ')}", hint=hint)
    if returncode == SSH_FAILED or returncode < 0:
        return LostError(f"the connection to {address} was lost{f': {last}' if last else ''}", hint=hint)
    return RemoteError(f"the shell at {address} ended with status {returncode}{f': {last}' if last else ''}", hint=hint)


SSH_FAILED = 255
"""ssh's own status, when it is not that of what it ran."""
