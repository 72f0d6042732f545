"""What haraka-out does with the demands of other domains: DANE and MTA-STS, with the image's own validating resolver.

The world is one signed zone, as in the test bed. Each domain has a server of its own:
``dane.example`` and ``sts.example`` are as they should be, the others are what an attacker in between would make.
"""

import hashlib
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from imagebuilder.dns.records import Record, txt
from imagebuilder.topology import Role
from imagebuilder.vm.authority import Issuer, tlsa
from imagebuilder.vm.nameserver import NameServer, root_addresses
from imagebuilder.vm.namespace import bind_over, entered
from tests.accept.impostor import self_signed
from tests.accept.proxy_room import PROXY_4, ROOM, Room, Unit, records, told_in_a_room
from tests.accept.test_proxy_out import MAIL, Mailbox, queued, sent_by_the_client, start_in

pytestmark = pytest.mark.accept

POLICY = "version: STSv1\nmode: enforce\nmx: {}\nmax_age: 86400\n"


class Elsewhere:
    """Domains of strangers, each with a mail server at an address of its own."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.issuer = Issuer.new()
        self.records = [*records()]
        self.boxes: dict[str, Mailbox] = {}
        self.policies: dict[str, str] = {}
        self.stack = ExitStack()

    def domain(self, name: str, pem: bytes | None, *further: tuple[str, str, str]) -> None:
        """Add *name*, whose server shows the certificate in *pem* or offers no TLS, with *further* records."""
        address = f"198.51.100.{130 + len(self.boxes)}"
        self.room.ip("internet", f"address add {address}/32 dev lo")
        rows = [(name, "MX", f"10 mx.{name}."), (f"mx.{name}", "A", address), (f"mta-sts.{name}", "A", address)]
        self.records += [Record(f"{owner}.", kind, data, "a stranger") for owner, kind, data in (*rows, *further)]
        self.boxes[name] = self.stack.enter_context(mail_server(address, pem))

    def announce(self, name: str, policy: str) -> None:
        """Let *name* have an MTA-STS policy."""
        text = txt(f"v=STSv1; id={hashlib.sha256(policy.encode()).hexdigest()[:20]}")
        self.records.append(Record(f"_mta-sts.{name}.", "TXT", text, "a stranger"))
        address = next(row.rdata for row in self.records if row.owner == f"mta-sts.{name}.")
        self.stack.enter_context(web_server(address, self.issuer.certify([f"mta-sts.{name}"]), policy))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start names, the proxy's resolver and haraka-out."""
        room = self.room
        room.names[Role.PROXY].stop()
        addresses = [f"address add {each}/{128 if ':' in each else 32} dev lo" for each in root_addresses()]
        room.ip("internet", *(f"{line} nodad" if "/128" in line else line for line in addresses))
        server = NameServer(room.parts.tools, ROOM / "dns-world", "internet", root_addresses())
        server.start(self.records)
        for name, text, shown in (
            ("root.key", f"{server.trust_anchor}\n", "usr/share/dns/root.key"),
            ("roots.pem", self.issuer.pem, "etc/ssl/certs/ca-certificates.crt"),
        ):
            (ROOM / name).write_text(text)
            bind_over(ROOM / name, room.roots[Role.PROXY] / shown)
        room.in_root(Role.PROXY, ["unbound", "-c", "/etc/unbound/unbound.conf"])
        room.start_haraka_out()
        with self.stack:
            yield

    def send(self, *names: str) -> None:
        for name in names:
            sent_by_the_client(self.room, f"someone@{name}")

    def arrives(self, *names: str) -> None:
        """Wait until the mail for *names* has arrived."""
        log = self.room.daemons["haraka-out.service"]
        for name in names:
            self.room.until(lambda name=name: bool(self.boxes[name].messages), f"mail for {name}", log)  # type: ignore[misc]

    def waits(self, *names: str) -> None:
        """Wait until the mail for *names* was put off, and see that none of it arrived."""
        log = self.room.daemons["haraka-out.service"]
        self.room.until(lambda: put_off(queued(self.room)) == len(names), f"{len(names)} that wait", log)
        assert {name: len(self.boxes[name].messages) for name in names} == dict.fromkeys(names, 0)


def put_off(queue: Sequence[Path]) -> int:
    """Return how many files of Haraka's queue were tried and failed: their names count the attempts."""
    return sum(1 for path in queue if int(path.name.split("_")[2]) > 0)


@contextmanager
def mail_server(address: str, pem: bytes | None) -> Iterator[Mailbox]:
    context = None
    if pem is not None:
        file = ROOM / f"{address}.pem"
        file.write_bytes(pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
    box = Mailbox()
    controller = Controller(box, hostname=address, port=25, tls_context=context)
    start_in("internet", controller)
    try:
        yield box
    finally:
        controller.stop()


@contextmanager
def web_server(address: str, pem: bytes, policy: str) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/.well-known/mta-sts.txt" else 404)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(policy.encode())

        def log_message(self, *_: object) -> None:
            pass

    file = ROOM / f"{address}.web.pem"
    file.write_bytes(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    with entered("internet"):
        server = ThreadingHTTPServer((address, 443), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@told_in_a_room
def test_a_tlsa_record_alone_decides_about_a_servers_certificate(room: Room) -> None:
    world = Elsewhere(room)
    own, other = self_signed("whatever.example"), self_signed("mx.forged.example")
    world.domain("dane.example", own, ("_25._tcp.mx.dane.example", "TLSA", tlsa(own)))
    world.domain("forged.example", other, ("_25._tcp.mx.forged.example", "TLSA", tlsa(own)))
    world.domain("stripped.example", None, ("_25._tcp.mx.stripped.example", "TLSA", tlsa(own)))

    with world.running():
        world.send(*world.boxes)
        world.arrives("dane.example")
        world.waits("forged.example", "stripped.example")

    assert world.boxes["dane.example"].sessions[0][1]


@told_in_a_room
def test_a_trust_anchor_may_be_named_instead_and_then_the_name_counts(room: Room) -> None:
    world = Elsewhere(room)
    private = Issuer.new()
    root = x509.load_pem_x509_certificates(private.pem.encode())[0]
    anchor = f"2 0 1 {hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()}"
    for name, shown in (("anchored.example", "mx.anchored.example"), ("misnamed.example", "mx.elsewhere.example")):
        pem = private.certify([shown]) + private.pem.encode()
        world.domain(name, pem, (f"_25._tcp.mx.{name}", "TLSA", anchor))

    with world.running():
        world.send(*world.boxes)
        world.arrives("anchored.example")
        world.waits("misnamed.example")


@told_in_a_room
def test_a_policy_wants_a_valid_certificate_and_a_named_host(room: Room) -> None:
    world = Elsewhere(room)
    world.domain("sts.example", world.issuer.certify(["mx.sts.example"]))
    world.domain("wild.example", world.issuer.certify(["mx.wild.example"]))
    world.domain("impostor.example", self_signed("mx.impostor.example"))
    world.domain("misnamed.example", world.issuer.certify(["mx.another.example"]))
    world.domain("stripped.example", None)
    world.domain("rerouted.example", world.issuer.certify(["mx.rerouted.example"]))
    for name in world.boxes:
        pattern = {"wild.example": "*.wild.example", "rerouted.example": "mail.rerouted.example"}.get(name)
        world.announce(name, POLICY.format(pattern or f"mx.{name}"))

    with world.running():
        world.send(*world.boxes)
        world.arrives("sts.example", "wild.example")
        world.waits("impostor.example", "misnamed.example", "stripped.example", "rerouted.example")


@told_in_a_room
def test_for_those_who_ask_it_is_written_down_how_tls_went(room: Room) -> None:
    world = Elsewhere(room)
    own, expired = self_signed("dane.example"), world.issuer.certify(["mx.expired.example"], days=-1)
    world.domain("dane.example", own, ("_25._tcp.mx.dane.example", "TLSA", tlsa(own)))
    world.domain("forged.example", self_signed("mx"), ("_25._tcp.mx.forged.example", "TLSA", tlsa(own)))
    world.domain("sts.example", world.issuer.certify(["mx.sts.example"]))
    world.domain("expired.example", expired)
    world.domain("misnamed.example", world.issuer.certify(["mx.another.example"]))
    world.domain("impostor.example", self_signed("mx.impostor.example"))
    world.domain("stripped.example", None)
    world.domain("rerouted.example", world.issuer.certify(["mx.rerouted.example"]))
    strict = ("sts", "expired", "misnamed", "impostor", "stripped", "rerouted")
    for name in strict:
        world.announce(f"{name}.example", POLICY.format(f"{'mail' if name == 'rerouted' else 'mx'}.{name}.example"))
    world.domain("silent.example", None)
    world.records.append(Record("_mta-sts.silent.example.", "TXT", txt("v=STSv1; id=1"), "without its web server"))
    world.domain("plain.example", None)
    world.domain("incurious.example", own)
    for name in world.boxes:
        if name != "incurious.example":
            said = txt(f"v=TLSRPTv1; rua=mailto:tls@{name}")
            world.records.append(Record(f"_smtp._tls.{name}.", "TXT", said, "a stranger"))

    with world.running():
        world.send(*world.boxes)
        world.arrives("dane.example", "sts.example", "plain.example", "silent.example", "incurious.example")
        world.waits("forged.example", *(f"{name}.example" for name in strict[1:]))
        log = room.daemons["haraka-out.service"]
        room.until(lambda: len(sessions_told(room)) >= 11, "what is written down", log)

    told = {(one["domain"], one["policy"]["policy-type"], one["result"]) for one in sessions_told(room)}
    assert told == {
        ("dane.example", "tlsa", "success"),
        ("forged.example", "tlsa", "validation-failure"),
        ("sts.example", "sts", "success"),
        ("expired.example", "sts", "certificate-expired"),
        ("misnamed.example", "sts", "certificate-host-mismatch"),
        ("impostor.example", "sts", "certificate-not-trusted"),
        ("stripped.example", "sts", "starttls-not-supported"),
        ("rerouted.example", "sts", "validation-failure"),
        ("silent.example", "sts", "sts-policy-fetch-error"),
        ("silent.example", "no-policy-found", "starttls-not-supported"),
        ("plain.example", "no-policy-found", "starttls-not-supported"),
    }
    (sent,) = (one for one in sessions_told(room) if one["domain"] == "sts.example")
    assert sent["policy"]["policy-string"][0] == "version: STSv1"
    assert sent["policy"]["mx-host"] == ["mx.sts.example"]
    assert (sent["mx"], sent["from"]) == ("mx.sts.example", PROXY_4)


def sessions_told(room: Room) -> list[dict[str, Any]]:
    """Return what the client is told about today, as the unit of that socket answers it."""
    unit = Unit.read(room.roots[Role.PROXY] / "etc/systemd/system/tls-results@.service")
    uid, gid = room.account(Role.PROXY, unit.one("User"))
    drop = ["setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", "--no-new-privs"]
    today = datetime.now(UTC).date().isoformat()
    argv = ["chroot", str(room.roots[Role.PROXY]), *drop, unit.one("ExecStart")]
    told = subprocess.run(argv, input=f"{today}\n".encode(), capture_output=True, check=True).stdout
    return [json.loads(line) for line in told.splitlines()]


@told_in_a_room
def test_a_day_that_is_none_is_not_told(room: Room) -> None:
    unit = Unit.read(room.roots[Role.PROXY] / "etc/systemd/system/tls-results@.service")
    argv = ["chroot", str(room.roots[Role.PROXY]), unit.one("ExecStart")]

    for question in (b"../queue\n", b"2026-11-2*\n", b""):
        done = subprocess.run(argv, input=question, capture_output=True, check=False)
        assert (done.returncode != 0, done.stdout) == (True, b"")


@told_in_a_room
def test_a_sender_may_say_that_a_message_arrives_whatever_becomes_of_tls(room: Room) -> None:
    world = Elsewhere(room)
    own = self_signed("mx.stripped.example")
    world.domain("stripped.example", None, ("_25._tcp.mx.stripped.example", "TLSA", tlsa(own)))

    with world.running():
        sent_by_the_client(room, "someone@stripped.example", mail=f"TLS-Required: No\r\n{MAIL}")
        world.arrives("stripped.example")


@told_in_a_room
def test_where_nothing_is_demanded_mail_goes_as_ever(room: Room) -> None:
    world = Elsewhere(room)
    world.domain("plain.example", None)
    world.domain("careless.example", self_signed("old.example"))
    world.domain("testing.example", self_signed("old.example"))
    world.announce("testing.example", POLICY.format("mx.testing.example").replace("enforce", "testing"))

    with world.running():
        world.send(*world.boxes)
        world.arrives(*world.boxes)

    assert [world.boxes[name].sessions[0][1] for name in world.boxes] == [False, True, True]


@told_in_a_room
def test_a_policy_is_remembered_over_a_restart_when_it_can_not_be_seen_any_more(room: Room) -> None:
    world = Elsewhere(room)
    world.domain("sts.example", world.issuer.certify(["mx.sts.example"]))
    world.announce("sts.example", POLICY.format("mx.sts.example"))
    with world.running():
        world.send("sts.example")
        world.arrives("sts.example")
    room.daemons["haraka-out.service"].kill()
    address = next(row.rdata for row in world.records if row.owner == "mx.sts.example.")

    with mail_server(address, self_signed("mx.sts.example")) as impostor:  # and the policy's web server is gone
        room.start_haraka_out()
        world.send("sts.example")
        room.until(lambda: put_off(queued(room)) == 1, "mail that waits", room.daemons["haraka-out.service"])

    assert impostor.messages == []
