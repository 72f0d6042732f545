"""The client's daemons in network namespaces: real programs, rendered configuration, real credentials.

```
 home (root name servers, a host on the LAN) ── eth0 client wg0 ── wg0 proxy (plays the proxy's part)
```
The tunnel is a plain pair of interfaces, and gets its address only after everything runs. WireGuard itself and
systemd's confinement are the machine tests' matter.
"""

import asyncio
import contextlib
import email
import imaplib
import os
import shlex
import smtplib
import socket
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

import dkim  # type: ignore[import-untyped]
from aiosmtpd.smtp import SMTP, Envelope, Session

from imagebuilder.dns.records import Record, txt, zone_records
from imagebuilder.render import render_role
from imagebuilder.run import environment, run
from imagebuilder.secrets.keys import credentials, hashed, new_secrets, passwd_line, public_keys, with_passwords
from imagebuilder.services import Site
from imagebuilder.tools import Tools
from imagebuilder.topology import Role, Topology
from imagebuilder.vm.nameserver import NameServer, root_addresses
from imagebuilder.vm.namespace import NETWORKS, bind_over, entered, new_network
from tests.accept.client_letters import USER, content_of, letter, no_questions, proxy_header
from tests.accept.proxy_room import TUNNEL_ENDS, ipv6_in_the_tunnel, tunnel_of_veth

ROOM = Path("/run/client")
PROXY, CLIENT, HOME, ROUTER = "10.0.0.1", "10.0.0.2", "192.168.77.2", "192.168.77.1"
PROXY_6, CLIENT_6 = "fd3b:9c0e:52a7::1", "fd3b:9c0e:52a7::2"
STRANGER_4, STRANGER_6 = "198.51.100.25", "2001:db8:5::25"
MX = "mx.stranger.example"
MIRROR = "mirror.stranger.example"
DEVICES = ("null", "zero", "full", "random", "urandom")
PASSWORDS = {f"{name}@example.org": f"word of {name}" for name in ("alice", "bob", "robot")}
GUEST, GUEST_PASSWORD = "guest@example.org", "word of a guest"
"""A mailbox that the topology does not name, and the catch-all of its domain does not get."""

TOPOLOGY = """
[proxy]
hostname = "mail.example.org"
ipv4 = "198.18.0.10/24"
ipv4_gateway = "198.18.0.1"

[client]
hostname = "home.example.org"

[[mail.domains]]
name = "example.org"
catch_all = "bob@example.org"

[[mail.domains]]
name = "club.example.net"
dkim_selector = "s1"
max_message_mib = 10

[[mail.domains]]
name = "bücher.example"

[[mail.mailboxes]]
address = "alice@example.org"
aliases = ["info@club.example.net", "laden@bücher.example"]
sieve = '''
require ["fileinto", "mailbox", "vacation"];
# 100% of it, "quoted" \\o/
if header :contains "subject" "[list]" { fileinto :create "Lists"; }
if header :contains "subject" "holiday?" { vacation "I am away"; }
if header :contains "subject" "pass on" { redirect "friend@stranger.example"; }
'''

[[mail.mailboxes]]
address = "bob@example.org"
quota_mib = 1

[[mail.mailboxes]]
address = "robot@example.org"
send_only = true

[[mail.aliases]]
address = "team@example.org"
targets = ["alice@example.org", "bob@example.org"]

[[mail.aliases]]
address = "away@example.org"
targets = ["friend@stranger.example"]

[bans]
wrong_passwords = 4

[filter]
user_messages_per_hour = 20

[admin]
email = "admin@elsewhere.example"
"""


@dataclass
class ClientRoom:
    """Everything the stories need; lives inside a namespace."""

    tools: Tools
    packages: Path
    described: str = TOPOLOGY
    """The topology's text."""
    root: Path = ROOM / "root"
    lines: list[str] = field(default_factory=list)
    """What the daemons said, in order."""
    sent: list[Envelope] = field(default_factory=list)
    """What the proxy was asked to send out, in order."""

    # --- making it

    def lay_out(self) -> None:
        """Make networks, secrets and the root as at first boot; nothing runs yet."""
        ROOM.mkdir()
        self.topology = Topology.model_validate(tomllib.loads(self.described))
        self.private = with_passwords(new_secrets(self.topology), PASSWORDS)
        self._wire()
        self._root()

    def start(self) -> None:
        """Start names and daemons; the tunnel comes last."""
        self.stranger_key = run(["openssl", "genrsa", "-traditional", "2048"]).stdout
        server = NameServer(self.tools, ROOM / "dns", "home", root_addresses())
        server.start(self._records())
        (ROOM / "root.key").write_text(f"{server.trust_anchor}\n")
        bind_over(ROOM / "root.key", self.root / "usr/share/dns/root.key")
        self._listen_for_logs()
        self._start_daemons()
        self.ip("client", f"address add {CLIENT}/24 dev wg0", *ipv6_in_the_tunnel(CLIENT_6, PROXY_6, TUNNEL_ENDS[1]))
        self._proxys_part()
        self.until(lambda: self._in_client("ss -Hltn").count("127.0.0.1:11332") > 0, "Rspamd", within_s=240)
        self.until(lambda: self.answers("proxy", CLIENT, 25), "Postfix")

    def _wire(self) -> None:
        for name in ("home", "client", "proxy"):
            new_network(name)
        names = [f"address add {a}/{128 if ':' in a else 32} dev lo" for a in root_addresses()]
        self.ip(
            "home",
            "link set lo up",
            *(f"{line} nodad" if "::" in line else line for line in names),
            f"link add lan type veth peer name eth0 netns {NETWORKS / 'client'}",
            "link set lan up",
            f"address add {ROUTER}/24 dev lan",
        )
        self.ip(
            "client",
            "link set lo up",
            "link set eth0 up",
            f"address add {HOME}/24 dev eth0",
            f"route add default via {ROUTER}",
            *tunnel_of_veth("proxy"),
            "link set wg0 mtu 1420 up",
        )
        self.ip(
            "proxy",
            "link set lo up",
            "link set wg0 mtu 1420 up",
            f"address add {PROXY}/24 dev wg0",
            *ipv6_in_the_tunnel(PROXY_6, CLIENT_6, TUNNEL_ENDS[0]),
        )

    def ip(self, network: str, *lines: str) -> None:
        """Run *lines* of ip's batch language in *network*."""
        argv = self.tools.argv(["ip", "-batch", "-"], network=True, read=[NETWORKS])
        with entered(network):
            run(argv, stdin="\n".join(lines).encode() + b"\n")

    def _records(self) -> list[Record]:
        der = run(["openssl", "rsa", "-pubout", "-outform", "PEM"], stdin=self.stranger_key).text
        public = "".join(der.splitlines()[1:-1])
        rows = [
            ("stranger.example.", "MX", f"10 {MX}."),
            ("stranger.example.", "TXT", txt(f"v=spf1 ip4:{STRANGER_4} ip6:{STRANGER_6} -all")),
            ("_dmarc.stranger.example.", "TXT", txt("v=DMARC1; p=reject")),
            (
                "_smtp._tls.stranger.example.",
                "TXT",
                txt("v=TLSRPTv1; rua=https://x.example/,mailto:tls@stranger.example"),
            ),
            ("s._domainkey.stranger.example.", "TXT", txt(f"v=DKIM1; k=rsa; p={public}")),
            (f"{MIRROR}.", "A", ROUTER),
            (f"{MX}.", "A", STRANGER_4),
            (f"{MX}.", "AAAA", STRANGER_6),
            # Rspamd reads addresses for reports with the list of real top-level domains
            ("curious.example.com.", "MX", f"10 {MX}."),
            ("curious.example.com.", "TXT", txt(f"v=spf1 ip4:{STRANGER_4} -all")),
            ("_dmarc.curious.example.com.", "TXT", txt("v=DMARC1; p=none; rua=mailto:reports@curious.example.com")),
            ("plain.example.", "MX", f"10 {MX}."),
            ("careless.example.", "MX", f"10 {MX}."),
            ("careless.example.", "TXT", txt("v=spf1 -all")),
        ]
        ours = zone_records(self.topology, public_keys(self.private))
        return [*(Record(owner, kind, rdata, "the room") for owner, kind, rdata in rows), *ours]

    def _root(self) -> None:
        """Lay the rendered tree over the package tree, read-only, with an empty /var and the credentials."""
        rendered = ROOM / "rendered"
        site = Site(self.topology, public_keys(self.private), Role.CLIENT)
        for path, file in render_role(site).files.items():
            target = rendered / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.content)
            target.chmod(file.mode)
        self.root.mkdir()
        run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={rendered}:{self.packages}", str(self.root)])
        for folder in ("dev", "run", "tmp", "var"):
            run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(self.root / folder)])
        (self.root / "tmp").chmod(0o1777)
        run(["mount", "--rbind", "/proc", str(self.root / "proc")])
        for device in DEVICES:
            (self.root / "dev" / device).touch()
            bind_over(Path("/dev") / device, self.root / "dev" / device)
        for source in sorted((self.packages / "var").rglob("*")):
            if source.is_dir() and not source.is_symlink():
                target = self.root / "var" / source.relative_to(self.packages / "var")
                target.mkdir(exist_ok=True)
                os.chown(target, source.stat().st_uid, source.stat().st_gid)
                target.chmod(source.stat().st_mode & 0o7777)
        self.client(["systemd-tmpfiles", "--create", "postfix.conf", "dovecot.conf", "guests.conf"])
        self.client(["mkdir", "-p", "/var/lib/certificate"])
        self.client(["env", "STATE_DIRECTORY=/var/lib/certificate", "/usr/lib/imagebuilder/first-certificate"])

    def _credentials(self, unit: str, user: str, *names: str) -> None:
        """Put the credentials called *names* where systemd would, for *user*."""
        folder = self.root / "run/credentials" / unit
        folder.mkdir(parents=True)
        uid, gid = self.account(user)
        for name, content in credentials(self.private, self.topology, Role.CLIENT).items():
            if name.startswith(names):
                (folder / name).write_bytes(content)
                (folder / name).chmod(0o400)
                os.chown(folder / name, uid, gid)
        folder.chmod(0o500)
        os.chown(folder, uid, gid)

    def account(self, user: str) -> tuple[int, int]:
        """Return uid and gid of *user* in the image."""
        rows = (line.split(":") for line in (self.root / "etc/passwd").read_text().splitlines())
        return next((int(row[2]), int(row[3])) for row in rows if row[0] == user)

    # --- programs

    def argv(self, command: Sequence[str], user: str = "root", groups: str = "", capability: str = "") -> list[str]:
        """Return the argv that runs *command* in the image as *user*, with one *capability* if any."""
        enter = ["chroot", str(self.root)]
        if user != "root":
            uid, gid = self.account(user)
            kept = f"-all,+{capability}" if capability else "-all"
            enter += ["/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(gid), "--no-new-privs"]
            known = ",".join(str(self.account(group)[1]) for group in groups.split())
            enter += ["--groups", known] if groups else ["--clear-groups"]
            enter += [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
        return [*enter, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8", *command]

    def client(self, command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run *command* of the image on the client, to its end."""
        with entered("client"):
            done = subprocess.run(
                self.argv(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300
            )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def as_user(self, user: str, group: str, command: Sequence[str]) -> bool:
        """Run *command* of the image as *user*, who is in *group*, and return whether it succeeded."""
        with entered("client"):
            argv = self.argv(command, user=user, groups=group)
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300)
        self.lines.extend(f"{command[0]}: {line}" for line in (done.stdout + done.stderr).decode().splitlines())
        return done.returncode == 0

    def _in_client(self, command: str) -> str:
        return self.client(shlex.split(command)).stdout

    def daemon(self, name: str, command: Sequence[str], **as_user: str) -> None:
        """Start *command* of the image on the client; what it says is kept under *name*."""
        with entered("client"):
            process = subprocess.Popen(
                self.argv(command, **as_user), stdin=subprocess.DEVNULL, text=True, env=environment(),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip

        def listen() -> None:
            assert process.stdout is not None
            self.lines.extend(f"{name}: {line.rstrip()}" for line in process.stdout)

        threading.Thread(target=listen, daemon=True).start()

    def _listen_for_logs(self) -> None:
        """Play the journal's part for those who use syslog."""
        journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        journal.bind(str(self.root / "dev/log"))
        (self.root / "dev/log").chmod(0o666)

        def listen() -> None:
            while True:
                said = journal.recv(65536).decode(errors="replace").partition(">")[2]
                # "Nov 22 19:35:50 postfix/qmgr[7]: …" (RFC 3164 section 4.1)
                self.lines.append(said[len("Nov 22 19:35:50 ") :])

        threading.Thread(target=listen, daemon=True).start()

    def _start_daemons(self) -> None:
        """Start everything as its unit does."""
        with entered("client"):
            for version in ("ipv4", "ipv6"):
                Path(f"/proc/sys/net/{version}/ip_nonlocal_bind").write_text("1")
        self.client(["nft", "-f", "/etc/nftables.conf"])
        self.daemon("unbound", ["unbound", "-d", "-p"], user="unbound", capability="net_bind_service")
        for folder, user, mode in (("valkey", "valkey", "0750"), ("rspamd", "_rspamd", "0755")):
            self.client(["install", "-d", "-m", mode, "-o", user, "-g", user, f"/run/{folder}"])
        self.daemon("valkey", ["valkey-server", "/etc/valkey/valkey.conf"], user="valkey")
        (self.root / "run/mailboxes.guests").write_text(passwd_line(GUEST, hashed(GUEST_PASSWORD)))
        self.client(["/usr/lib/imagebuilder/guests", "/run/mailboxes.guests"])
        self._credentials("rspamd.service", "_rspamd", "dkim.")
        self.until(lambda: (self.root / "run/valkey/valkey.sock").exists(), "Valkey")
        self.daemon("rspamd", ["rspamd", "-c", "/etc/rspamd/rspamd.conf", "-f"], user="_rspamd", groups="valkey clamav")
        self._credentials("dovecot.service", "root", "mailboxes.")
        drop_in = self.root / "etc/systemd/system/dovecot.service.d/60-imagebuilder.conf"
        for line in drop_in.read_text().splitlines():
            key, _, command = line.partition("=")
            if key == "ExecStartPre":
                self.client(shlex.split(command.lstrip("-").replace("%d", "/run/credentials/dovecot.service")))
        self._start_ban_report()
        self.daemon("dovecot", ["dovecot", "-F"])
        self._start_postsrsd()
        self.client(["postfix", "check"])
        self.daemon("postfix", ["/usr/lib/postfix/sbin/master", "-d"])

    def _start_postsrsd(self) -> None:
        self.client(["install", "-d", "-m", "0700", "-o", "postsrsd", "-g", "postsrsd", "/var/lib/postsrsd"])
        unit = (self.root / "etc/systemd/system/postsrsd.service").read_text()
        settings = dict(line.split("=", 1) for line in unit.splitlines() if line.startswith("Exec"))
        in_folder = ["env", "--chdir=/var/lib/postsrsd"]
        with entered("client"):
            argv = self.argv([*in_folder, *shlex.split(settings["ExecStartPre"])], user="postsrsd")
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=300)
        self.daemon("postsrsd", [*in_folder, *shlex.split(settings["ExecStart"])], user="postsrsd")

    def _start_ban_report(self) -> None:
        unit = (self.root / "etc/systemd/system/ban-report.service").read_text()
        settings = [line.removeprefix("Environment=") for line in unit.splitlines() if line.startswith("Environment=")]
        self.daemon("ban-report", ["env", *settings, "/usr/lib/imagebuilder/ban-report"], user="nobody")

    def _proxys_part(self) -> None:
        """Take what the client sends out."""
        room = self

        class Sink:
            async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
                room.sent.append(envelope)
                return "250 taken"

        with entered("proxy"):
            listening = socket.create_server((PROXY, 2526))
        loop = asyncio.new_event_loop()
        loop.run_until_complete(loop.create_server(lambda: SMTP(Sink(), loop=loop), sock=listening))
        threading.Thread(target=loop.run_forever, daemon=True).start()

    # --- looking

    def until(self, true: Callable[[], bool], what: str, within_s: float = 60) -> None:
        """Wait until *true* is; fail with what was said last when it is not."""
        deadline = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < deadline, f"awaited {what}"
            time.sleep(0.1)

    def connect(self, network: str, address: str, port: int, within_s: float = 60) -> socket.socket:
        """Return a TCP connection from *network*."""
        with entered(network):
            return socket.create_connection((address, port), within_s)

    def answers(self, network: str, address: str, port: int, within_s: float = 1) -> bool:
        """Return whether a connection from *network* is taken."""
        try:
            self.connect(network, address, port, within_s).close()
        except OSError:
            return False
        return True

    def said(self, *words: str) -> bool:
        """Return whether a daemon said all *words* in one line."""
        return any(all(word in line for word in words) for line in list(self.lines))

    # --- talking

    @contextlib.contextmanager
    def smtp(self, port: int = 25, start: bytes = b"") -> Iterator[smtplib.SMTP]:
        """Yield an SMTP session from the proxy, of which *start* is sent before anything else."""
        session = smtplib.SMTP(local_hostname="mail.example.org", timeout=60)
        session.sock = self.connect("proxy", CLIENT, port)
        session.sock.sendall(start)
        code, greeting = session.getreply()
        assert code == 220, greeting
        try:
            yield session
        finally:
            session.close()

    @contextlib.contextmanager
    def stranger(self, address: str = STRANGER_4) -> Iterator[smtplib.SMTP]:
        """Yield a session that the proxy opened for the stranger at *address*."""
        with self.smtp() as session:
            session.ehlo()
            shown = f"IPV6:{address}" if ":" in address else address
            reply = session.docmd("XCLIENT", f"NAME={MX} ADDR={shown} PORT=4711 PROTO=ESMTP HELO={MX}")
            assert reply[0] == 220, reply
            session.ehlo(MX)
            yield session

    def deliver(self, to: str, subject: str, text: str = "hello\n", **more: str) -> tuple[int, str]:
        """Send a signed mail from the stranger and return the answer to its content, or the refusal before."""
        sender = more.get("sender", "joe@stranger.example")
        message = letter(more.get("shown", sender), to, subject, text, more.get("headers", ""))
        if "unsigned" not in more:
            fields = [b"from", b"to", b"subject"]
            message = dkim.sign(message, b"s", b"stranger.example", self.stranger_key, include_headers=fields) + message
        with self.stranger(more.get("address", STRANGER_4)) as session:
            session.mail(sender, [f"size={more['size']}"] if "size" in more else [])
            code, reply = session.rcpt(to)
            if code == 250:
                code, reply = session.data(message)
            return code, reply.decode()

    @contextlib.contextmanager
    def submission(self, user: str, password: str) -> Iterator[smtplib.SMTP]:
        """Yield a session of the roaming user's, logged in."""
        with self.smtp(10587, proxy_header(USER, 587)) as session:
            session._host = "mail.example.org"  # type: ignore[attr-defined]
            session.ehlo("laptop.lan")
            session.starttls(context=no_questions())
            session.ehlo("laptop.lan")
            session.login(user, password)
            yield session

    @contextlib.contextmanager
    def imap(self, user: str, password: str = "") -> Iterator[imaplib.IMAP4]:
        """Yield an IMAP session of the roaming user's, logged in."""
        room = self

        class Session(imaplib.IMAP4):
            def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
                plain = room.connect("proxy", CLIENT, 10993)
                plain.sendall(proxy_header(USER, 993))
                self.sock = no_questions().wrap_socket(plain)
                self.file = self.sock.makefile("rb")

        session = Session()
        try:
            session.login(user, password or PASSWORDS.get(user, GUEST_PASSWORD))
            yield session
        finally:
            with contextlib.suppress(imaplib.IMAP4.error, OSError):
                session.logout()

    def folder(self, user: str, name: str = "INBOX") -> list[Message]:
        """Return the messages in a folder of *user*'s, oldest first; none when there is no such folder."""
        with self.imap(user) as session:
            if session.select(name)[0] != "OK":
                return []
            numbers = session.search(None, "ALL")[1][0].split()
            parts = [session.fetch(number.decode(), "(RFC822)")[1][0] for number in numbers]
        return [email.message_from_bytes(part[1]) for part in parts if isinstance(part, tuple)]

    def receive(self, user: str, subject: str, folder: str = "INBOX") -> Message:
        """Wait for the message called *subject* and return it."""
        found: list[Message] = []

        def is_there() -> bool:
            found[:] = [message for message in self.folder(user, folder) if message["Subject"] == subject]
            return bool(found)

        self.until(is_there, f"{subject!r} in {folder} of {user}", within_s=20)
        return found[0]

    def outgoing(self, subject: str) -> tuple[Envelope, bytes]:
        """Wait for the mail called *subject* to leave and return it, envelope and content."""

        def found() -> list[Envelope]:
            return [one for one in list(self.sent) if f"Subject: {subject}".encode() in content_of(one)]

        self.until(lambda: bool(found()), f"{subject!r} to leave", within_s=20)
        return found()[0], content_of(found()[0])

    def signature_holds(self, content: bytes) -> bool:
        """Return whether the DKIM signature of *content* is good by the records that we publish."""
        texts = {r.owner: r.text.encode() for r in zone_records(self.topology, public_keys(self.private))}
        return bool(dkim.verify(content, dnsfunc=lambda name, timeout=5: texts.get(name.decode())))
