"""Whether a host that an image was shipped to does its work: asked by ssh, and from outside as mail programs do.

Opens connections to the host; writes nothing there, and sends no message.
"""

import contextlib
import shlex
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.shipping.remote import Shell
from imagebuilder.shipping.residence import SCRIPT, judged, questions
from imagebuilder.topology import Role, Topology

ANSWER_S = 20
"""Longest wait for a mail server's next word."""
HANDSHAKE_S = 180
"""A tunnel whose last handshake is older carries nothing (WireGuard's Reject-After-Time)."""
SMTP, SUBMISSION, IMAPS = 25, 587, 993

STATE = """\
echo "state $(systemctl is-system-running)"
systemctl list-units --failed --plain --no-legend | while read -r unit rest; do echo "failed $unit"; done
now=$(date +%s)
wg show all latest-handshakes | while read -r interface key last; do echo "handshake $((last ? now - last : -1))"; done
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    right: bool | None
    """None: it can't be told from here."""
    said: str
    """What was seen."""

    def __str__(self) -> str:
        word = {True: "ok", False: "WRONG", None: "?"}[self.right]
        return f"{word:5} {self.name}: {self.said}"


def host_checks(image: Image, shell: Shell, disk: Path | None = None) -> tuple[Check, ...]:
    """Return what the host at the end of *shell* says of itself: its system, its units, its tunnel.

    *disk* is where its system is; None: where its secrets are.
    """
    where = f" sh {shlex.quote(str(disk))}" if disk else ""
    said = shell.text(f"sh -c {shlex.quote(SCRIPT)}{where} <<'END'\n{questions(image)}END\n{STATE}")
    return judged_host(image, said)


def judged_host(image: Image, said: str) -> tuple[Check, ...]:
    """Return what it means that a host *said* this. Pure."""
    words = [line.partition(" ") for line in said.splitlines()]
    told = {key: value for key, _, value in words}
    wrong, failed = judged(image, said), [value for key, _, value in words if key == "failed"]
    system = f"root hash {image.root_hash[:16]}… and every partition are those of the generation"
    ages = [int(value) for key, _, value in words if key == "handshake"]
    age = min((age for age in ages if age >= 0), default=None)
    state = told.get("state") or "unknown"
    units = f"{state}: {', '.join(failed)} failed" if failed else state
    return (
        Check("system", not wrong, "; ".join(wrong) or system),
        Check("units", state == "running" and not failed, units),
        Check("tunnel", age is not None and age <= HANDSHAKE_S, _tunnel(ages, age)),
    )


def _tunnel(ages: list[int], age: int | None) -> str:
    if age is None:
        return "there has been no handshake yet" if ages else "it is not there"
    return f"the last handshake was {age} s ago" + (", so nothing comes through" if age > HANDSHAKE_S else "")


def mail_checks(topology: Topology, host: str) -> tuple[Check, ...]:
    """Return whether the mail ports at *host*, the proxy, answer from here as they have to."""
    recipient = next((box.address for box in topology.mail.mailboxes if not box.send_only), None)
    name = topology.proxy.hostname
    checks = [
        _asked("mail from outside (25)", lambda: _smtp(host, str(recipient) if recipient else None)),
        _asked("submission (587)", lambda: _submission(host)),
        _asked("IMAP (993)", lambda: _imaps(host, name)),
    ]
    if checks[0].right is False and checks[1].right and "timed out" in checks[0].said:
        blocked = f"{checks[0].said}: this network, or the provider of {host}, may not let port 25 through"
        checks[0] = Check(checks[0].name, None, blocked)
    return tuple(checks)


def _asked(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, True, ask())
    except _RefusedError as error:
        return Check(name, False, str(error))
    except (OSError, smtplib.SMTPException) as error:
        return Check(name, False, str(error).strip().lower() or type(error).__name__)


class _RefusedError(ImagebuilderError):
    """A server answered, but not as it has to."""


def _smtp(host: str, recipient: str | None) -> str:
    """Offer a message for *recipient* as a stranger does, and go away before it."""
    with _greeted(host, SMTP) as server:
        if recipient is None:
            return "greets"
        _expect(server.mail(""), "MAIL FROM:<>")
        _expect(server.rcpt(recipient), f"RCPT TO:<{recipient}>")
        return f"takes mail for {recipient}, so the client answers through the tunnel"


def _submission(host: str) -> str:
    with _greeted(host, SUBMISSION) as server:
        if not server.has_extn("starttls"):
            raise _RefusedError("offers no STARTTLS")
        name = (server.ehlo_resp or b"").split()[0].decode()
        server.starttls(context=_any_certificate())
        return f"greets as {name}, with {server.sock.version()}"  # type: ignore[union-attr]


@contextlib.contextmanager
def _greeted(host: str, port: int) -> Iterator[smtplib.SMTP]:
    """Yield a dialogue with the server at *port*."""
    try:
        server = smtplib.SMTP(host, port, timeout=ANSWER_S)
    except smtplib.SMTPConnectError as error:
        raise _RefusedError(f"greets with {error.smtp_code} {error.smtp_error!r}") from None
    with contextlib.closing(server):
        _expect(server.ehlo(_literal(server.sock)), "EHLO")
        yield server
        with contextlib.suppress(OSError, smtplib.SMTPException):
            server.quit()


def _literal(connection: socket.socket | None) -> str:
    """Return what a machine without a name calls itself (RFC 5321 section 4.1.3)."""
    assert connection
    address = connection.getsockname()[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _expect(reply: tuple[int, bytes], to: str) -> None:
    code, said = reply
    if not 200 <= code < 300:
        raise _RefusedError(f"answers {to} with {code} {said.decode(errors='replace').splitlines()[0]}")


def _imaps(host: str, name: str) -> str:
    with (
        socket.create_connection((host, IMAPS), ANSWER_S) as plain,
        _any_certificate().wrap_socket(plain, server_hostname=name) as server,
    ):
        greeting = server.recv(1000).decode(errors="replace").strip()
        if not greeting.startswith("* OK"):
            raise _RefusedError(f"greets with {greeting[:80]!r}")
        return f"greets, with {server.version()}"


def _any_certificate() -> ssl.SSLContext:
    """Return how TLS is spoken to whoever it is: the first certificate comes a while after the host."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def way_in(topology: Topology, role: Role) -> str:
    """Return the address at which *role* listens to its administrator. Pure."""
    return str(topology.proxy.ipv4.ip if role is Role.PROXY else topology.tunnel.client_address)
