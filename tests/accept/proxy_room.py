"""The proxy's and the client's daemons in network namespaces of their own: real programs, rendered configuration.

```
 internet (strangers' addresses) ── eth0 proxy wg0 ── wg0 client (Postfix)
```
The tunnel is a plain pair of interfaces here; WireGuard itself and systemd's confinement are the machine tests' matter.
"""

import contextlib
import functools
import mailbox
import os
import shlex
import signal
import smtplib
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from ipaddress import ip_address
from pathlib import Path

import pytest

from imagebuilder.dns.records import Record
from imagebuilder.run import run
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.topology.rules_mail import SERVICE_LABELS
from imagebuilder.tree import Tree
from imagebuilder.vm.authority import directory_hosts
from imagebuilder.vm.nameserver import NameServer
from imagebuilder.vm.namespace import NETWORKS, entered, has_many_users, inside, new_network

ROOM = Path("/run/room")
PROXY_4, PROXY_6 = "198.18.0.10", "2001:2:0:1::10"
TUNNEL_PROXY, TUNNEL_CLIENT = "10.0.0.1", "10.0.0.2"
TUNNEL_PROXY_6, TUNNEL_CLIENT_6 = "fd3b:9c0e:52a7::1", "fd3b:9c0e:52a7::2"
TUNNEL_ENDS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
"""Hardware addresses of what plays the tunnel: the end where it is made, and the other."""
STRANGER_4, STRANGER_6 = "198.51.100.25", "2001:db8:5::25"
AUTHORITY_4, DIRECTORY = "198.51.100.80", "https://acme-v02.api.letsencrypt.org/directory"
HOME_4 = "198.51.100.99"
"""The client's line at home."""
NAMELESS_4 = "198.51.100.66"
"""Its PTR record names a host that has another address."""
NEIGHBOUR_6, ELSEWHERE_6 = "2001:db8:5::26", "2001:db8:6::25"
"""In the stranger's /64, and outside it."""
MX = "mx.stranger.example"

OWN_FOLDERS = {"RuntimeDirectory": "run", "CacheDirectory": "var/cache", "StateDirectory": "var/lib"}
"""Where systemd makes the folders of a unit."""

MAIL_UID = 5000

CLIENT_OVERRIDES = f"""
# Filters, Dovecot and its policies are away here; mail ends in one file.
smtpd_milters =
smtpd_recipient_restrictions = reject_unlisted_recipient
virtual_transport = virtual
virtual_mailbox_base = /var/mail
virtual_uid_maps = static:{MAIL_UID}
virtual_gid_maps = static:{MAIL_UID}
maillog_file = /var/log/mail.log
"""


def tunnel_of_veth(peer: str) -> list[str]:
    """Return the lines of ip's batch language that make what plays the tunnel, between here and the network *peer*."""
    here, there = TUNNEL_ENDS
    return [f"link add wg0 address {here} type veth peer name wg0 address {there} netns {NETWORKS / peer}"]


def ipv6_in_the_tunnel(own: str, other: str, other_end: str) -> list[str]:
    """Return those that give wg0 the address *own*; as in WireGuard, nobody has to look for his neighbour."""
    return [f"address add {own}/64 dev wg0 nodad", f"neigh add {other} lladdr {other_end} dev wg0 nud permanent"]


@dataclass(frozen=True)
class Parts:
    """What a room is made of."""

    tools: Tools
    package_tree: Callable[[Role], Path]
    rendered: Callable[[Role], Tree]


def records() -> list[Record]:
    """Return the names that the room's resolvers know."""
    rows = [
        ("example.org.", "MX", "10 mail.example.org."),
        ("mail.example.org.", "A", PROXY_4),
        ("mail.example.org.", "AAAA", PROXY_6),
        *((f"{label}.example.org.", "CNAME", "mail.example.org.") for label in SERVICE_LABELS),
        *((f"{host}.", "A", AUTHORITY_4) for host in directory_hosts(DIRECTORY)),
        ("stranger.example.", "MX", f"10 {MX}."),
        (f"{MX}.", "A", STRANGER_4),
        (f"{MX}.", "AAAA", STRANGER_6),
    ]
    names = {STRANGER_4: MX, STRANGER_6: MX, NAMELESS_4: MX, PROXY_4: "mail.example.org", PROXY_6: "mail.example.org"}
    rows += [(f"{_pointer(address)}.", "PTR", f"{name}.") for address, name in names.items()]
    return [Record(owner, kind, rdata, "the room") for owner, kind, rdata in rows]


def _pointer(address: str) -> str:
    return ip_address(address).reverse_pointer


def replace_settings(path: Path, text: str) -> None:
    """Give Postfix's settings in *path* the values of *text*, each in place of its own."""
    wanted = {line.partition("=")[0].strip() for line in text.splitlines() if "=" in line}
    kept, dropping = [], False
    for line in path.read_text().splitlines():
        if not line.startswith((" ", "\t")):
            dropping = line.partition("=")[0].strip() in wanted
        if not dropping:
            kept.append(line)
    path.write_text("\n".join(kept) + f"\n{text}\n")


@dataclass(frozen=True)
class Unit:
    """What a unit file says about how its program is started."""

    settings: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "Unit":
        """Return the unit in *path*, without its drop-ins."""
        settings: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            key, separator, value = line.partition("=")
            if separator and not line.startswith("#"):
                settings.setdefault(key, []).append(value)
        return cls(settings)

    def words(self, key: str) -> list[str]:
        """Return the words of all lines of *key*."""
        return [word for value in self.settings.get(key, []) for word in shlex.split(value)]

    def one(self, key: str, default: str = "") -> str:
        """Return the last value of *key*."""
        return self.settings.get(key, [default])[-1]


@dataclass
class Daemon:
    """A running program of the room."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(60)

    def resident_mib(self) -> float:
        """Return the memory it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@dataclass
class Room:
    """The three networks and what runs in them; lives inside a namespace."""

    parts: Parts
    roots: dict[Role, Path] = field(default_factory=dict)
    names: dict[Role, NameServer] = field(default_factory=dict)
    """What takes the place of each host's resolver."""
    daemons: dict[str, Daemon] = field(default_factory=dict)
    listeners: list[socket.socket] = field(default_factory=list)
    credentials: dict[str, bytes] = field(default_factory=dict)
    """Those of the proxy, by name; a unit gets the ones it asks for."""
    client_credentials: dict[str, bytes] = field(default_factory=dict)
    """Those of the client."""

    # --- making it

    def build(self) -> None:
        """Make networks, roots and resolvers."""
        ROOM.mkdir()
        for name in ("internet", "proxy", "client"):
            new_network(name)
            with entered(name):
                # No waiting for others who might have the same IPv6 address.
                Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
        self._wire()
        for role in Role:
            self._root(role)
            self.names[role] = NameServer(self.parts.tools, ROOM / f"dns-{role}", role, ["127.0.0.1"])
            self.names[role].start(records())
        self.in_root(Role.PROXY, ["nft", "-f", "/etc/nftables.conf"])

    def _wire(self) -> None:
        self.ip(
            "internet",
            "link set lo up",
            f"link add to-proxy type veth peer name eth0 netns {NETWORKS / 'proxy'}",
            "link set to-proxy up",
            "address add 198.18.0.1/24 dev to-proxy",
            "address add 2001:2:0:1::1/64 dev to-proxy nodad",
            *(f"address add {address}/32 dev lo" for address in (STRANGER_4, NAMELESS_4, AUTHORITY_4)),
            *(f"address add {address}/128 dev lo nodad" for address in (STRANGER_6, NEIGHBOUR_6, ELSEWHERE_6)),
        )
        self.ip(
            "proxy",
            "link set lo up",
            "link set eth0 up",
            f"address add {PROXY_4}/24 dev eth0",
            f"address add {PROXY_6}/64 dev eth0 nodad",
            "route add default via 198.18.0.1",
            "route add default via 2001:2:0:1::1",
            *tunnel_of_veth("client"),
            "link set wg0 mtu 1420 up",
            f"address add {TUNNEL_PROXY}/24 dev wg0",
            *ipv6_in_the_tunnel(TUNNEL_PROXY_6, TUNNEL_CLIENT_6, TUNNEL_ENDS[1]),
        )
        self.ip(
            "client",
            "link set lo up",
            "link set wg0 mtu 1420 up",
            f"address add {TUNNEL_CLIENT}/24 dev wg0",
            *ipv6_in_the_tunnel(TUNNEL_CLIENT_6, TUNNEL_PROXY_6, TUNNEL_ENDS[0]),
        )

    def ip(self, network: str, *lines: str) -> None:
        """Run *lines* of ip's batch language in *network*."""
        argv = self.parts.tools.argv(["ip", "-batch", "-"], network=True, read=[NETWORKS])
        with entered(network):
            run(argv, stdin="\n".join(lines).encode() + b"\n")

    def _root(self, role: Role) -> None:
        """Lay the rendered tree over the package tree, read-only, with an empty /var as at first boot."""
        rendered = ROOM / f"rendered-{role}"
        for path, file in self.parts.rendered(role).files.items():
            target = rendered / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.content)
            target.chmod(file.mode)
        if role is Role.CLIENT:
            replace_settings(rendered / "etc/postfix/main.cf", CLIENT_OVERRIDES)
            with (rendered / "etc/postfix/master.cf").open("a") as services:
                services.write("virtual unix - n n - - virtual\n")
        root = ROOM / f"root-{role}"
        root.mkdir()
        packages = self.parts.package_tree(role)
        run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={rendered}:{packages}", str(root)])
        for folder in ("dev", "proc"):
            run(["mount", "--rbind", f"/{folder}", str(root / folder)])
        for folder in ("run", "tmp", "var"):
            run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(root / folder)])
        (root / "tmp").chmod(0o1777)
        for source in sorted((packages / "var").rglob("*")):
            if source.is_dir() and not source.is_symlink():
                target = root / "var" / source.relative_to(packages / "var")
                target.mkdir(exist_ok=True)
                os.chown(target, source.stat().st_uid, source.stat().st_gid)
                target.chmod(source.stat().st_mode & 0o7777)
        for folder in ("var/lib", "var/log", "var/mail", "var/cache", "var/spool"):
            (root / folder).mkdir(exist_ok=True)
        os.chown(root / "var/mail", MAIL_UID, MAIL_UID)
        self.roots[role] = root

    # --- programs

    def in_root(self, role: Role, command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run *command* of the image of *role* on that host, to its end."""
        argv = ["chroot", str(self.roots[role]), "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8"]
        with entered(role):
            done = subprocess.run(
                [*argv, *command], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300
            )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout.decode()}{done.stderr.decode()}"
        return done

    def start(self, role: Role, name: str) -> Daemon:
        """Start the program of the unit *name* on the host *role*, as systemd would: user, folders, capabilities."""
        root = self.roots[role]
        folder = "etc/systemd/system" if (root / "etc/systemd/system" / name).is_file() else "usr/lib/systemd/system"
        unit = Unit.read(root / folder / name)
        argv = self._as_user(role, unit, self._variables(role, name, unit))
        for key, parent in (
            ("RuntimeDirectory", "run"),
            ("CacheDirectory", "var/cache"),
            ("StateDirectory", "var/lib"),
        ):
            for path in unit.words(key):
                self._folder(role, f"{parent}/{path}", unit.one(f"{key}Mode", "0755"), unit)
        self.certificate(role)
        log = ROOM / f"{name}.txt"
        with entered(role), log.open("ab") as messages:
            for line in unit.settings.get("ExecStartPre", []):
                before = [*argv, *shlex.split(line)]
                subprocess.run(before, stdin=subprocess.DEVNULL, check=True, stdout=messages, timeout=300)
            process = subprocess.Popen(
                [*argv, *shlex.split(unit.one("ExecStart"))],
                stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, umask=int(unit.one("UMask", "0022"), 8),
            )  # fmt: skip
        self.daemons[name] = Daemon(process, log)
        return self.daemons[name]

    def _as_user(self, role: Role, unit: Unit, settings: list[str]) -> list[str]:
        user = unit.one("User", "root")
        uid, gid = self.account(role, user)
        groups = ",".join(str(self.group(role, name)) for name in unit.words("SupplementaryGroups"))
        held = unit.one("AmbientCapabilities").lower().removeprefix("cap_")
        kept = f"-all,+{held}" if held else "-all"
        drop = ["--reuid", str(uid), "--regid", str(gid), *(["--groups", groups] if groups else ["--clear-groups"])]
        limits = [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}", "--no-new-privs"]
        variables = ["PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8", *settings]
        return [
            "chroot", str(self.roots[role]), "/usr/bin/setpriv", *drop, *limits, "/usr/bin/env", "-i", *variables
        ]  # fmt: skip

    def _variables(self, role: Role, name: str, unit: Unit) -> list[str]:
        """Return the environment of the unit *name*, and put its credentials where that says."""
        variables = unit.words("Environment")
        if state := unit.words("StateDirectory"):
            variables.append(f"STATE_DIRECTORY=/var/lib/{state[0]}")
        known = self.credentials if role is Role.PROXY else self.client_credentials
        if given := {key: known[key] for key in unit.words("ImportCredential") if key in known}:
            folder = f"run/credentials/{name}"
            self._folder(role, folder, "0500", unit)
            for key, content in given.items():
                path = self.roots[role] / folder / key
                path.write_bytes(content)
                os.chown(path, *self.account(role, unit.one("User", "root")))
            variables.append(f"CREDENTIALS_DIRECTORY=/{folder}")
        return variables

    def _folder(self, role: Role, path: str, mode: str, unit: Unit) -> None:
        root = self.roots[role]
        uid, gid = self.account(role, unit.one("User", "root"))
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path).chmod(int(mode, 8))
        os.chown(root / path, uid, gid)

    def certificate(self, role: Role) -> None:
        """Make the first certificate of the host *role*, when there is none."""
        folder = self.roots[role] / "var/lib/certificate"
        if (folder / "mail.pem").exists():
            return
        folder.mkdir(mode=0o750)
        os.chown(folder, 0, self.group(role, "certificate"))
        folder.chmod(0o2750)
        name = "first-certificate.service"
        unit = Unit.read(self.roots[role] / "usr/lib/systemd/system" / name)
        self.in_root(role, ["env", *self._variables(role, name, unit), unit.one("ExecStart")])

    def account(self, role: Role, user: str) -> tuple[int, int]:
        """Return uid and gid of *user* in the image."""
        for line in (self.roots[role] / "etc/passwd").read_text().splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == user:
                return int(uid), int(gid)
        raise AssertionError(f"{role} has no user {user}")

    def group(self, role: Role, group: str) -> int:
        """Return the gid of *group* in the image."""
        for line in (self.roots[role] / "etc/group").read_text().splitlines():
            name, _, gid, *_ = line.split(":")
            if name == group:
                return int(gid)
        raise AssertionError(f"{role} has no group {group}")

    def start_postfix(self, *overrides: str) -> None:
        """Start the client's Postfix, with further settings."""
        # The overlay is read-only; what differs lies over it.
        settings = self.roots[Role.CLIENT] / "run/main.cf"
        shown = self.roots[Role.CLIENT] / "etc/postfix/main.cf"
        settings.write_bytes(shown.read_bytes())
        replace_settings(settings, "\n".join(overrides))
        run(["mount", "--bind", str(settings), str(shown)])
        self.in_root(Role.CLIENT, ["systemd-tmpfiles", "--create", "guests.conf"])
        self.in_root(Role.CLIENT, ["postfix", "start"])
        self.until(lambda: self.answers("proxy", TUNNEL_CLIENT, 25), "Postfix to answer")

    def stop_postfix(self) -> None:
        """Stop it at once."""
        self.in_root(Role.CLIENT, ["postfix", "abort"], check=False)
        self.until(lambda: not self.answers("proxy", TUNNEL_CLIENT, 25), "Postfix to be gone")

    def postfix_log(self) -> str:
        """Return what Postfix said so far."""
        log = self.roots[Role.CLIENT] / "var/log/mail.log"
        return log.read_text() if log.exists() else ""

    def processes(self, name: str) -> list[int]:
        """Return the processes of the room that run the program *name*."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "comm").read_text().strip() == name and ROOM in (folder / "root").readlink().parents:
                    found.append(int(folder.name))
        return found

    def start_haraka_in(self) -> Daemon:
        """Start the inbound relay and wait for its greeting."""
        daemon = self.start(Role.PROXY, "haraka-in.service")
        self.until(lambda: self.answers("internet", PROXY_4, 25), "haraka-in to answer", daemon)
        return daemon

    def start_haraka_out(self) -> Daemon:
        """Start the outbound relay and wait for its greeting."""
        daemon = self.start(Role.PROXY, "haraka-out.service")
        self.until(lambda: self.answers("client", TUNNEL_PROXY, 2526), "haraka-out to answer", daemon)
        return daemon

    # --- looking and talking

    def until(self, true: Callable[[], bool], what: str, daemon: Daemon | None = None, within_s: float = 30) -> None:
        """Wait until *true* is; fail with what *daemon* said when it is not."""
        deadline = time.monotonic() + within_s
        while not true():
            said = daemon.log.read_text()[-3000:] if daemon else self.postfix_log()[-3000:]
            ended = daemon is not None and daemon.process.poll() is not None
            assert time.monotonic() < deadline and not ended, f"awaited {what}:\n{said}"
            time.sleep(0.05)

    def answers(self, network: str, address: str, port: int, source: str = "", within_s: float = 1) -> bool:
        """Return whether a connection from *network* is taken."""
        try:
            self.connect(network, address, port, source, within_s).close()
        except OSError:
            return False
        return True

    def connect(self, network: str, address: str, port: int, source: str = "", within_s: float = 60) -> socket.socket:
        """Return a TCP connection from a host in *network*."""
        with entered(network):
            return socket.create_connection((address, port), within_s, (source, 0) if source else None)

    def listen(self, network: str, address: str, port: int) -> socket.socket:
        """Return a socket that listens on a host in *network*, as long as the room is there."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with entered(network):
            listener = socket.create_server((address, port), family=family, backlog=256)
        self.listeners.append(listener)
        return listener

    @contextlib.contextmanager
    def smtp(
        self, source: str = STRANGER_4, address: str = PROXY_4, port: int = 25, network: str = "internet"
    ) -> Iterator[smtplib.SMTP]:
        """Yield an SMTP session whose greeting was read."""
        session = smtplib.SMTP(local_hostname=MX, timeout=60)
        session.sock = self.connect(network, address, port, source)
        code, greeting = session.getreply()
        assert code == 220, greeting
        try:
            yield session
        finally:
            session.close()

    def inbox(self) -> list[Message]:
        """Return the messages that Postfix delivered so far, in that order."""
        path = self.roots[Role.CLIENT] / "var/mail/mailbox"
        return list(mailbox.mbox(path)) if path.exists() else []

    def delivered(self, count: int) -> list[Message]:
        """Wait for *count* messages in all and return them."""
        self.until(lambda: len(self.inbox()) >= count, f"{count} messages")
        return self.inbox()

    def signal_all(self, name: str, number: signal.Signals) -> None:
        """Send a signal to every process of the room that runs *name*."""
        for pid in self.processes(name):
            os.kill(pid, number)


def told_in_a_room(story: Callable[[Room], None]) -> Callable[[Parts], None]:
    """Make a test of *story*, which gets a room of its own."""

    @functools.wraps(story)
    def play(parts: Parts) -> str | None:
        if not has_many_users():
            return "skip"
        room = Room(parts)
        try:
            room.build()
            story(room)
        except Exception:
            said = "".join(f"\n--- {name}\n{daemon.log.read_text()[-3000:]}" for name, daemon in room.daemons.items())
            postfix = room.postfix_log()[-4000:] if Role.CLIENT in room.roots else ""
            return f"{traceback.format_exc()}{said}\n--- Postfix\n{postfix}"
        return None

    def test(parts: Parts) -> None:
        outcome = inside(functools.partial(play, parts))
        if outcome == "skip":
            pytest.skip("a plain user needs a range of subordinate users (newuidmap) to play the daemons' users")
        if outcome:
            pytest.fail(outcome, pytrace=False)

    test.__name__ = story.__name__
    test.__doc__ = story.__doc__
    test.__module__ = story.__module__
    return test
