"""The stranger's mail server: a real Postfix that takes mail and keeps every message. Owns its processes."""

import email
import email.policy
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import UNTIL_WE_END, end, environment, run
from imagebuilder.tools import Tools
from imagebuilder.vm.host import Host
from imagebuilder.vm.names import GONE
from imagebuilder.vm.namespace import has_many_users

READY_S = 30.0
"""Seconds that the server may take to answer."""
USERS = """\
root:x:0:0:root:/root:/bin/sh
postfix:x:901:901::/:/usr/sbin/nologin
inbox:x:902:902::/:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/:/usr/sbin/nologin
"""
GROUPS = "root:x:0:\npostfix:x:901:\ninbox:x:902:\npostdrop:x:903:\nnogroup:x:65534:\n"
SERVICES = """\
smtp      inet  n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Received:
    """A message as it arrived at the stranger's."""

    raw: bytes
    """As it came over the wire, without what the stranger's server put in front."""
    sender: str
    """Envelope sender; empty for a bounce."""
    recipient: str
    """Envelope recipient."""
    client_address: str
    """Address that it came from."""
    helo: str
    """Name that the sending server gave."""
    tls: str | None
    """Protocol version of the connection, or None when it was plain."""
    trace: str
    """The Received field of the stranger's own server."""

    @property
    def message(self) -> EmailMessage:
        """The message, parsed."""
        parsed = email.message_from_bytes(self.raw, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    @property
    def subject(self) -> str:
        """Its subject."""
        return str(self.message["subject"])


def postfix_configuration(folder: Path, domains: Sequence[str], certificate: Path) -> str:
    """Return the stranger's main.cf: mail for *domains* goes to one folder of files. Pure."""
    return f"""\
compatibility_level = 3.10
queue_directory = {folder}/queue
data_directory = {folder}/lib
mail_owner = postfix
setgid_group = postdrop
maillog_file_prefixes = {folder}, /dev/stdout
maillog_file = /dev/stdout
myhostname = mx.{domains[0]}
mydomain = {domains[0]}
mydestination =
local_recipient_maps =
local_transport = error:nobody lives on this host
alias_maps =
alias_database =
mynetworks =
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{{ {{{GONE} = 550 5.1.1 nobody of that name is left}} }}
inet_protocols = all
virtual_mailbox_domains = {" ".join(domains)}
virtual_mailbox_maps = static:inbox/
virtual_mailbox_base = {folder}/mail
virtual_uid_maps = static:902
virtual_gid_maps = static:902
virtual_minimum_uid = 900
smtpd_tls_security_level = may
smtpd_tls_chain_files = {certificate}
smtpd_tls_received_header = yes
smtpd_peername_lookup = yes
smtputf8_enable = yes
message_size_limit = 0
mailbox_size_limit = 0
virtual_mailbox_limit = 0
# every message comes from the proxy's one address
smtpd_client_connection_count_limit = 0
"""


class MailServer:
    """The mail server of *domains* on the outside host *host*, which shows *certificate*, PEM."""

    def __init__(self, tools: Tools, host: Host, folder: Path, domains: Sequence[str], certificate: bytes) -> None:
        self._tools = tools
        self._host = host
        self._folder = folder
        self._domains = tuple(domains)
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Switch the server on and wait until it greets."""
        if not has_many_users():
            raise ImagebuilderError(
                "the stranger's Postfix needs users of its own, and this account may play only one",
                hint="install uidmap and give the account a range in /etc/subuid and /etc/subgid, or run as root",
            )
        self._lay_out()
        log = self._folder / "postfix.txt"
        with self._host.entered(), log.open("ab") as messages:
            run(self._argv("postfix", "check"))  # makes the folders of its queue
            # What `postfix start-fg` starts, but as our own child: it ends when it is told to, and when we end.
            self._process = subprocess.Popen(
                [*UNTIL_WE_END, *self._argv("/usr/lib/postfix/sbin/master", "-d")],
                env=environment(), stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
            )  # fmt: skip
        deadline = time.monotonic() + READY_S
        while not self._greets():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise ImagebuilderError(f"the stranger's Postfix does not greet:\n{self.log()[-2000:]}")
            time.sleep(0.1)

    def _argv(self, program: str, *arguments: str) -> list[str]:
        """Return the argv that runs one of Postfix's programs with our settings."""
        over = [(self._folder / name, Path("/etc") / name) for name in ("passwd", "group")]
        command = [program, "-c", str(self._folder / "etc"), *arguments]
        return self._tools.argv(command, network=True, write=[self._folder], over=over)

    def stop(self) -> None:
        """Switch the server off."""
        if self._process is not None:
            end(self._process, politely_s=10)
            self._process = None

    def log(self) -> str:
        """Return what Postfix logged."""
        path = self._folder / "postfix.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def received(self) -> tuple[Received, ...]:
        """Return all messages so far, oldest first."""
        new = self._folder / "mail/inbox/new"
        files = sorted(new.iterdir(), key=lambda path: path.stat().st_mtime_ns) if new.is_dir() else []
        return tuple(as_received(path.read_bytes()) for path in files)

    def _lay_out(self) -> None:
        for name in ("etc", "queue", "lib", "mail"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
            (self._folder / name).chmod(0o755)
        _own(self._folder / "lib", 901)
        _own(self._folder / "mail", 902)
        (self._folder / "passwd").write_text(USERS)
        (self._folder / "group").write_text(GROUPS)
        certificate = self._folder / "certificate.pem"
        certificate.write_bytes(self._certificate)
        certificate.chmod(0o600)
        main = postfix_configuration(self._folder, self._domains, certificate)
        (self._folder / "etc/main.cf").write_text(main)
        (self._folder / "etc/master.cf").write_text(SERVICES)

    def _greets(self) -> bool:
        try:
            with self._host.connect("127.0.0.1", 25, within_s=5) as connection:
                return connection.recv(4) == b"220 "
        except OSError:
            return False


def as_received(stored: bytes) -> Received:
    """Return the message that Postfix *stored* with its envelope in front. Pure."""
    head, found, rest = stored.partition(b"\nReceived: ")
    trace, raw = _first_field(b"Received: " + rest)
    envelope = email.message_from_bytes(head + b"\n\n")
    text = b" ".join(trace.split()).decode(errors="replace")
    client = re.search(r"from (\S+) \(\S* ?\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]\)", text)
    if not found or client is None:
        raise ImagebuilderError(f"the stranger's Postfix stored something without a trace: {text[:200]!r}")
    tls = re.search(r"using (TLS\S+)", text)
    return Received(
        raw=raw,
        sender=str(envelope["Return-Path"]).strip("<>"),
        recipient=str(envelope["X-Original-To"] or envelope["Delivered-To"]),
        client_address=client[2],
        helo=client[1],
        tls=tls[1] if tls else None,
        trace=text.removeprefix("Received: "),
    )


def _first_field(text: bytes) -> tuple[bytes, bytes]:
    """Return the first header field of *text*, with its folded lines, and what comes after it."""
    end = re.search(rb"\n(?![ \t])", text)
    assert end is not None
    return text[: end.start()], text[end.end() :]


def _own(path: Path, user: int) -> None:
    os.chown(path, user, user)
