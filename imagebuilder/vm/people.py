"""Those who use the mail system from outside: persons with a mailbox, and a stranger with a server of his own."""

import email
import email.policy
import imaplib
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address

from imagebuilder.runs.record import Message
from imagebuilder.topology import Topology
from imagebuilder.vm import trace
from imagebuilder.vm.host import Host
from imagebuilder.vm.mta import MailServer, Received
from imagebuilder.vm.names import STRANGER_DOMAIN
from imagebuilder.vm.verdict import Verdict, judge
from imagebuilder.vm.waiting import ExpectationError, HopelessError, Patience, Seen, wait_for

IMAPS, SUBMISSION, SMTP = 993, 587, 25


@dataclass(frozen=True)
class Delivered:
    """A message as its reader gets it."""

    message: EmailMessage
    raw: bytes
    folder: str
    waited_s: float
    """Seconds from asking until it was there."""

    @property
    def text(self) -> str:
        """Its body, with the line ends of this machine."""
        part = self.message.get_body(("plain",))
        return str(part.get_content()).replace("\r\n", "\n") if part is not None else ""

    @property
    def client_address(self) -> str:
        """Address that our side's own trace says it came from, as the client's Postfix saw it."""
        for field_text in self.message.get_all("Received", []):
            text = " ".join(str(field_text).split())
            if found := re.search(r"from \S+ \(\S* ?\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]\)", text):
                return found[1]
        raise ExpectationError(f"no Received field of {self.message['subject']!r} names an address")


def arrived_message(message: EmailMessage, recipient: str, *further: str) -> Message:
    """Return the way of *message*, which has just arrived, with *further* Received fields that it does not carry."""
    seconds = (datetime.now(UTC) - parsedate_to_datetime(str(message["Date"]))).total_seconds()
    return Message(
        subject=str(message["Subject"]),
        sender=str(message["From"]),
        recipient=recipient,
        seconds=max(seconds, 0.0),
        hops=trace.hops(message, further),
        authentication=trace.authentication(message),
    )


def letter(sender: str, to: str, subject: str, body: str) -> EmailMessage:
    """Return a plain message, complete with date and identity.

    Send it by its own bytes: smtplib's send_message would put a > before a line that begins with From.
    """
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message.set_content(body)
    return message


@dataclass(frozen=True)
class _From:
    """The clients of the standard library, but calling from one of the world's hosts."""

    host: Host
    trust: ssl.SSLContext
    """How certificates are verified."""
    name: str
    """What they have to say, however the server is called."""

    def smtp(self, address: str, port: int, helo: str, within_s: float) -> smtplib.SMTP:
        """Return a dialogue that is past the greeting."""
        host = self.host

        class Dialogue(smtplib.SMTP):
            def _get_socket(self, host_name: str, port: int, timeout: float) -> socket.socket:
                return host.connect(host_name, port, within_s=timeout)

        dialogue = Dialogue(address, port, local_hostname=helo, timeout=within_s)
        dialogue._host = self.name  # type: ignore[attr-defined]  # whom starttls asks the certificate for
        return dialogue

    def imap(self, address: str, port: int, within_s: float) -> imaplib.IMAP4:
        """Return an IMAP session inside TLS, before login."""
        host, trust, name = self.host, self.trust, self.name

        class Session(imaplib.IMAP4):
            def _create_socket(self, timeout: float | None) -> socket.socket:
                plain = host.connect(self.host, self.port, within_s=timeout or within_s)
                return trust.wrap_socket(plain, server_hostname=name)

        return Session(address, port, timeout=within_s)


@dataclass
class Person:
    """Somebody with a mailbox, who reads and writes from an outside host through the proxy."""

    address: str
    password: str = field(repr=False)
    topology: Topology
    host: Host
    patience: Patience
    trust: ssl.SSLContext = field(repr=False)
    """How certificates are verified."""
    server: str = ""
    """The one name that mail programs are given; left out: the proxy's."""
    arrived: Callable[[Message], None] | None = None
    """Told of each message that is received."""
    missing: Callable[[], str] = str
    """Says what has to be there for mail to come and is not; nothing, when all is."""

    def __post_init__(self) -> None:
        self.server = self.server or self.topology.proxy.hostname

    @property
    def _calling(self) -> _From:
        return _From(self.host, self.trust, self.topology.proxy.hostname)

    @contextmanager
    def imap(self, *, password: str | None = None) -> Iterator[imaplib.IMAP4]:
        """Yield a session that is logged in; raises imaplib.IMAP4.error when the server refuses the login."""
        session = self._calling.imap(self.server, IMAPS, self.patience.seconds(10))
        try:
            session.login(self.address, password or self.password)
            yield session
        finally:
            session.shutdown()

    @contextmanager
    def submission(self, *, password: str | None = None) -> Iterator[smtplib.SMTP]:
        """Yield an SMTP dialogue that is logged in; raises smtplib.SMTPAuthenticationError when refused."""
        with self.plain_submission() as dialogue:
            dialogue.starttls(context=self.trust)
            dialogue.login(self.address, password or self.password)
            yield dialogue

    @contextmanager
    def plain_submission(self) -> Iterator[smtplib.SMTP]:
        """Yield an SMTP dialogue before TLS and login."""
        dialogue = self._calling.smtp(self.server, SUBMISSION, "[127.0.0.1]", self.patience.seconds(10))
        try:
            yield dialogue
        finally:
            dialogue.close()

    def send(self, to: str, subject: str, body: str, *, sender: str | None = None) -> EmailMessage:
        """Submit a message and return it as it was written."""
        message = letter(sender or self.address, to, subject, body)
        with self.submission() as dialogue:
            dialogue.sendmail(sender or self.address, [to], message.as_bytes())
        return message

    def receive(self, subject: str, *, within_s: float = 30) -> Delivered:
        """Return the message with that *subject* as soon as any folder has it."""
        found: list[Delivered] = []
        started = time.monotonic()
        limit = self.patience.seconds(within_s)
        _hope(subject, self.missing())
        # One session for all looks: an emulated machine has more to do for a login than for the mail itself.
        with self.imap() as session:

            def look() -> Seen:
                _hope(subject, self.missing())
                for folder, raw, message in _messages(session, subject):
                    found.append(Delivered(message, raw, folder, time.monotonic() - started))
                return Seen(bool(found), "no such message in any folder")

            wait_for(f"the message {subject!r} in the mailbox of {self.address}", look, within_s=limit, every_s=0.5)
        if self.arrived is not None:
            self.arrived(arrived_message(found[0].message, self.address))
        return found[0]

    def count(self, subject: str) -> int:
        """Return how many messages with that *subject* the mailbox holds now, in all folders."""
        with self.imap() as session:
            return sum(1 for _ in _messages(session, subject))


@dataclass
class Stranger:
    """Somebody elsewhere, with a host and a mail server of his own."""

    topology: Topology
    host: Host
    server: MailServer
    patience: Patience
    trust: ssl.SSLContext = field(repr=False)
    """How certificates are verified; they always are."""
    address: str = f"someone@{STRANGER_DOMAIN}"
    helo: str = f"mx.{STRANGER_DOMAIN}"
    arrived: Callable[[Message], None] | None = None
    """Told of each message that is received."""
    missing: Callable[[], str] = str
    """Says what has to be there for mail to go and come and is not; nothing, when all is."""
    judged: Callable[[str, Verdict, str], None] | None = None
    """Told of each message that is judged: its subject, the verdict, and whose it is."""

    @property
    def ipv4(self) -> IPv4Address:
        """Address that his host calls from by IPv4."""
        return self.host.ipv4

    @property
    def ipv6(self) -> IPv6Address | None:
        """Address that his host calls from by IPv6."""
        return self.host.ipv6

    @contextmanager
    def dialogue(self, *, ipv6: bool = False, secure: bool = True) -> Iterator[smtplib.SMTP]:
        """Yield an SMTP dialogue with the proxy that is past EHLO, inside TLS when *secure*."""
        proxy = self.topology.proxy
        own = proxy.ipv6.ip if ipv6 and proxy.ipv6 else proxy.ipv4.ip
        calling = _From(self.host, self.trust, proxy.hostname)
        dialogue = calling.smtp(str(own), SMTP, self.helo, self.patience.seconds(10))
        try:
            dialogue.ehlo()
            if secure:
                dialogue.starttls(context=self.trust)
                dialogue.ehlo()
            yield dialogue
        finally:
            dialogue.close()

    def send(
        self, to: str | list[str], subject: str, body: str, *, ipv6: bool = False, sender: str | None = None
    ) -> dict[str, tuple[int, bytes]]:
        """Send one message, and return the recipients that were refused, with the reply to each."""
        recipients = [to] if isinstance(to, str) else to
        message = letter(sender or self.address, ", ".join(recipients), subject, body)
        with self.dialogue(ipv6=ipv6) as dialogue:
            return dialogue.sendmail(sender or self.address, recipients, message.as_bytes())

    def offer(self, to: str, *, sender: str | None = None, ipv6: bool = False) -> str:
        """Name *to* as a recipient, send nothing, and return the reply to that, as in "550 5.1.1 …"."""
        with self.dialogue(ipv6=ipv6) as dialogue:
            code, text = dialogue.mail(sender or self.address)
            if code == 250:
                code, text = dialogue.rcpt(to)
            dialogue.rset()
        return f"{code} {text.decode(errors='replace')}"

    def timed_offer(self, to: str) -> tuple[str, float]:
        """Return the reply to *to* as a recipient, or to whatever was refused before, and the seconds it took."""
        started = time.monotonic()
        return self.offer(to), time.monotonic() - started

    def send_persistently(self, to: str, subject: str, body: str, *, within_s: float = 40) -> int:
        """Send one message as a server with a queue does, again whenever it is put off; return the attempts."""
        message = letter(self.address, to, subject, body)
        attempts = 0

        def look() -> Seen:
            nonlocal attempts
            _hope(subject, self.missing())
            attempts += 1
            code, text = 0, b""
            try:
                with self.dialogue() as dialogue:
                    dialogue.sendmail(self.address, [to], message.as_bytes())
            except smtplib.SMTPRecipientsRefused as error:
                ((code, text),) = error.recipients.values()
            except smtplib.SMTPResponseException as error:
                code, text = error.smtp_code, _bytes(error.smtp_error)
            except OSError as error:  # nobody is there, or hangs up
                return Seen(False, f"{type(error).__name__}: {error}")
            else:
                return Seen(True, "accepted")
            said = text.decode(errors="replace")
            if code >= 500:
                raise HopelessError(f"{subject!r} was refused for good: {code} {said}")
            return Seen(False, f"{code} {said}")

        limit = self.patience.seconds(within_s)
        wait_for(f"the acceptance of {subject!r}", look, within_s=limit, every_s=1)
        return attempts

    def receive(self, subject: str, *, within_s: float = 60) -> Received:
        """Return the message with that *subject* as soon as his own server has it."""
        found: list[Received] = []

        def look() -> Seen:
            arrived = self.server.received()
            found.extend(each for each in arrived if each.subject == subject)
            if not found:
                _hope(subject, self.missing())
            return Seen(bool(found), f"{len(arrived)} other messages")

        limit = self.patience.seconds(within_s)
        wait_for(f"the message {subject!r} at the stranger's", look, within_s=limit, every_s=0.5)
        if self.arrived is not None:
            self.arrived(arrived_message(found[0].message, found[0].recipient, found[0].trace))
        return found[0]

    def judge(self, received: Received) -> Verdict:
        """Return what an independent verifier makes of *received*."""
        verdict = judge(received, self.host)
        if self.judged is not None:
            self.judged(received.subject, verdict, self.helo)
        return verdict


def _hope(subject: str, missing: str) -> None:
    """Raise HopelessError when the message *subject* can't pass, as something is *missing*."""
    if missing:
        raise HopelessError(f"{subject!r} can't pass: {missing}")


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _messages(session: imaplib.IMAP4, subject: str) -> Iterator[tuple[str, bytes, EmailMessage]]:
    """Yield folder, content and content as it is understood of each message with *subject*."""
    _, folders = session.list()
    for line in folders:
        name = re.sub(r'^\(.*?\) (?:"."|NIL) ', "", line.decode() if isinstance(line, bytes) else "")
        status, _ = session.select(name, readonly=True)
        if status != "OK":
            continue
        _, found = session.search(None, "HEADER", "Subject", f'"{subject}"')
        for number in (found[0] or b"").split():
            _, parts = session.fetch(number.decode(), "(BODY.PEEK[])")
            for part in parts:
                if not isinstance(part, tuple):
                    continue
                message = email.message_from_bytes(part[1], policy=email.policy.default)
                assert isinstance(message, EmailMessage)
                if message["Subject"] == subject:  # the search finds longer ones, too
                    yield name.strip('"'), part[1], message
