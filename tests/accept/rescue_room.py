"""A rescue system: the OpenSSH server and the ordinary tools of Debian in a tree of their own, on loopback.

Its disks are loop devices. Between it and us is a road that can be cut. Needs root.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagebuilder.shipping.remote import Address
from tests.unit.keys import ssh_pair

START = """\
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mount --rbind /dev dev
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs tmpfs run
mkdir -p run/sshd root/.ssh etc/ssh
cp "$3/hostkey" etc/ssh/rescue_key
cp "$3/id.pub" root/.ssh/authorized_keys
chmod 600 etc/ssh/rescue_key root/.ssh/authorized_keys
chmod 700 root root/.ssh
chown -R 0:0 root
exec chroot . /usr/sbin/sshd -D -e -f /dev/null -o HostKey=/etc/ssh/rescue_key -o ListenAddress=127.0.0.1 -o Port=$4 \
    -o UsePAM=no -o PermitRootLogin=prohibit-password -o StrictModes=no -o PidFile=none
"""


@dataclass
class Rescue:
    """A running rescue system."""

    folder: Path
    port: int
    server: "subprocess.Popen[bytes]"

    @property
    def address(self) -> Address:
        """How the operator reaches it."""
        return Address(
            "127.0.0.1",
            port=self.port,
            identity=self.folder / "id",
            known_hosts=self.known_hosts(self.port),
            options=("IdentitiesOnly=yes", "IdentityAgent=none"),
        )

    def known_hosts(self, port: int) -> Path:
        """Return a file that knows its key, at whatever *port*."""
        path = self.folder / f"known_hosts.{port}"
        path.write_text(f"[127.0.0.1]:{port} {(self.folder / 'hostkey.pub').read_text()}\n")
        return path

    def over(self, road: "Road") -> Address:
        """Return its address at the near end of *road*."""
        return replace(self.address, port=road.port, known_hosts=self.known_hosts(road.port))

    def inside(self, *argv: str) -> str:
        """Run *argv* in its tree, as somebody at its console does, and return what it prints."""
        process = next(iter(Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()))
        enter = ["nsenter", f"--target={process}", "--mount", "--pid", f"--root=/proc/{process}/root", "--wdns=/"]
        return subprocess.run([*enter, *argv], check=True, capture_output=True, text=True, timeout=60).stdout


@contextlib.contextmanager
def rescue(folder: Path, *trees: Path) -> Iterator[Rescue]:
    """Yield a rescue system made of *trees*, the first of which wins."""
    folder.mkdir()
    (folder / "mounts").mkdir()
    for name in ("hostkey", "id"):
        (folder / f"{name}.pub").write_text(ssh_pair(folder / name))
        (folder / name).chmod(0o600)
    port = free_port()
    # It ends with us, whatever ends us.
    argv = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "--",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "sh",
        "-c",
        START,
        "sh",
    ]
    argv += [str(folder / "mounts"), ":".join(map(str, trees)), str(folder), str(port)]
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(port, server, folder / "sshd.log")
        yield Rescue(folder, port, server)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"the rescue system did not come up: {log.read_text()}")


@dataclass
class Road:
    """The way to a port, which can be cut after so many bytes, once or each time."""

    to: int
    cuts: list[int] = field(default_factory=list)
    """After how many bytes towards the port the next connections are cut; none left: not any more."""
    silent: bool = False
    """Whether a cut is not told to the far side, as when a network goes away."""
    carried: int = 0
    """Bytes towards the port, over all connections."""
    connections: int = 0

    def __enter__(self) -> "Road":
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def cut(self) -> None:
        """Cut what goes on."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *_: object) -> None:
        # A socket that is only closed leaves the thread in accept.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for end in self._open:
            end.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self.to), 10)
            far.settimeout(None)
            self._open += [near, far]
            limit = self.cuts.pop(0) if self.cuts else None
            threading.Thread(target=self._carry, args=(near, far, limit), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, None), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        with contextlib.suppress(OSError):
            through = 0
            while content := source.recv(65536):
                if limit is not None and through + len(content) > limit:
                    target.sendall(content[: limit - through])
                    break
                target.sendall(content)
                through += len(content)
                if source.getsockname()[1] == self.port:
                    self.carried += len(content)
        for end in (source,) if limit is not None and self.silent else (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def loop(file: Path, *options: str) -> Iterator[Path]:
    """Yield the loop device of *file*."""
    argv = ["losetup", "--find", "--show", *options, str(file)]
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
