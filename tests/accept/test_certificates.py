"""Certificates by ACME: Caddy and lego of the images, against pebble.

```
 internet: pebble, strangers ── eth0 proxy (Caddy, Haraka) wg0 ── wg0 client (lego) eth1 ── internet
```
What systemd does when a file changes is played here; that it does is the machine tests' matter.
"""

import hashlib
import os
import shlex
import smtplib
import ssl
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from imagebuilder.secrets.keys import new_secrets, public_keys
from imagebuilder.topology import Role, load_topology
from imagebuilder.vm.authority import VALID_S, Authority, Issuer
from imagebuilder.vm.nameserver import NameServer
from imagebuilder.vm.namespace import NETWORKS, bind_over
from tests.accept.proxy_room import (
    AUTHORITY_4,
    DIRECTORY,
    HOME_4,
    MX,
    PROXY_4,
    ROOM,
    Daemon,
    Room,
    Unit,
    records,
    told_in_a_room,
)

pytestmark = pytest.mark.accept

SMALL = Path(__file__).parents[1] / "topologies/small.toml"
MAIL = "mail.example.org"
NAMES = (MAIL, "autoconfig.example.org", "autodiscover.example.org", "mta-sts.example.org")
BUNDLE = "etc/ssl/certs/ca-certificates.crt"


class Certified:
    """The room's authority, and both hosts as they get certificates from it."""

    def __init__(self, room: Room, *, valid_s: int = VALID_S) -> None:
        self.room = room
        self.topology = load_topology(SMALL)
        secrets = new_secrets(self.topology)
        self.tlsa = public_keys(secrets).tls
        room.credentials["tls.key"] = (secrets.tls or "").encode()
        room.ip(
            "internet",
            f"link add to-client type veth peer name eth1 netns {NETWORKS / 'client'}",
            "link set to-client up",
            "address add 198.51.100.98/31 dev to-client",
        )
        room.ip(
            "client", "link set eth1 up", f"address add {HOME_4}/31 dev eth1", "route add default via 198.51.100.98"
        )
        self.names = NameServer(room.parts.tools, ROOM / "dns-internet", "internet", ["127.0.0.1"])
        self.names.start(records())
        self.issuer = Issuer.new()
        self.authority = Authority(
            room.parts.tools, self.issuer, ROOM / "authority", "internet", AUTHORITY_4, DIRECTORY, "127.0.0.1"
        )
        self.authority.start(valid_s=valid_s)
        roots = ROOM / "roots.pem"
        roots.write_text(self.issuer.pem)
        for role in Role:
            bind_over(roots, room.roots[role] / BUNDLE)
            (room.roots[role] / "var/empty").mkdir(exist_ok=True)
            room.certificate(role)

    @property
    def trust(self) -> ssl.SSLContext:
        """How people outside verify."""
        return ssl.create_default_context(cadata=self.issuer.pem)

    def start_caddy(self, *, renew_every: str = "") -> Daemon:
        """Start Caddy, which looks for what is to be renewed every ten minutes, or as *renew_every* says."""
        if renew_every:
            shown = self.room.roots[Role.PROXY] / "etc/caddy/Caddyfile"
            changed = ROOM / "Caddyfile"
            changed.write_text(shown.read_text().replace("admin off", f"admin off\n\trenew_interval {renew_every}", 1))
            bind_over(changed, shown)
        return self.room.start(Role.PROXY, "caddy.service")

    def start_lego(self) -> Daemon:
        return self.room.start(Role.CLIENT, "acme.service")

    def has_chain(self, role: Role) -> bool:
        """Return whether the host has a whole chain from the authority, and take it up as its unit does."""
        unit = Unit.read(self.room.roots[role] / "usr/lib/systemd/system/new-certificate.service")
        if not (self.room.roots[role] / unit.one("ConditionPathExists").lstrip("/")).exists():
            return False
        return self.room.in_root(role, shlex.split(unit.one("ExecStart")), check=False).returncode == 0

    def current(self, role: Role) -> x509.Certificate:
        """Return the certificate that the mail daemons of *role* use."""
        return x509.load_pem_x509_certificates(self._pem(role))[0]

    def key_digest(self, role: Role) -> str:
        """Return what a TLSA record says of the key that the mail daemons of *role* use."""
        public = load_pem_private_key(self._pem(role), None).public_key()
        return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()

    def is_from_the_authority(self, role: Role) -> bool:
        return "Pebble" in self.current(role).issuer.rfc4514_string()

    def _pem(self, role: Role) -> bytes:
        return (self.room.roots[role] / "var/lib/certificate/mail.pem").read_bytes()

    def get(self, name: str, path: str, *, method: str = "GET", body: str = "") -> tuple[HTTPResponse, bytes]:
        """Ask the web front as a program outside does, which verifies the certificate."""
        connection = HTTPConnection(name)
        connection.sock = self.trust.wrap_socket(
            self.room.connect("internet", PROXY_4, 443, within_s=10), server_hostname=name
        )
        connection.request(method, path, body or None)
        response = connection.getresponse()
        return response, response.read()

    def answers_verified(self, name: str) -> bool:
        try:
            return self.get(name, "/")[0].status == 200
        except OSError:
            return False


def starttls(room: Room, trust: ssl.SSLContext) -> smtplib.SMTP:
    """Return a session with port 25 that is inside TLS."""
    session = smtplib.SMTP(local_hostname=MX, timeout=30)
    session.sock = room.connect("internet", PROXY_4, 25)
    session.getreply()
    session._host = MAIL  # type: ignore[attr-defined]  # what the certificate has to say
    assert session.starttls(context=trust)[0] == 220
    session.ehlo()
    return session


@told_in_a_room
def test_both_hosts_get_certificates_and_no_key_leaves_its_host(room: Room) -> None:
    world = Certified(room)
    assert world.key_digest(Role.PROXY) == world.tlsa  # DANE holds from the first boot on
    caddy, lego = world.start_caddy(), world.start_lego()

    room.until(lambda: world.has_chain(Role.PROXY), "Caddy's certificate", caddy, within_s=60)
    room.until(lambda: world.has_chain(Role.CLIENT), "lego's certificate", lego, within_s=90)
    for name in NAMES:
        room.until(lambda name=name: world.answers_verified(name), name, caddy, within_s=60)  # type: ignore[misc]

    assert world.is_from_the_authority(Role.PROXY)
    assert world.is_from_the_authority(Role.CLIENT)
    assert world.key_digest(Role.PROXY) == world.tlsa
    assert world.key_digest(Role.CLIENT) != world.tlsa
    room.start_haraka_in()
    starttls(room, world.trust).quit()


@told_in_a_room
def test_while_the_authority_is_down_mail_flows_and_later_certificates_come(room: Room) -> None:
    world = Certified(room)
    world.authority.close()
    caddy, lego = world.start_caddy(), world.start_lego()
    room.start_haraka_in()

    first = ssl.create_default_context(cadata=world._pem(Role.PROXY).decode().partition("-----END PRIVATE KEY-----")[2])
    starttls(room, first).quit()
    room.until(lambda: "no certificate, attempt 1" in lego.log.read_text(), "lego's word", lego)
    assert caddy.process.poll() is None

    world.authority.refuses = "we are closed today"
    world.authority.open()
    room.until(lambda: "we are closed today" in lego.log.read_text(), "lego's word", lego, within_s=90)
    assert not world.has_chain(Role.CLIENT)

    world.authority.refuses = None
    room.until(lambda: world.has_chain(Role.CLIENT), "lego's certificate", lego, within_s=150)
    room.until(lambda: world.has_chain(Role.PROXY), "Caddy's certificate", caddy, within_s=150)
    starttls(room, world.trust).quit()


@told_in_a_room
def test_certificates_are_renewed_in_time_and_the_key_that_tlsa_names_stays(room: Room) -> None:
    world = Certified(room, valid_s=45)
    caddy, lego = world.start_caddy(renew_every="2s"), world.start_lego()
    room.until(lambda: world.has_chain(Role.PROXY), "Caddy's certificate", caddy, within_s=60)
    room.until(lambda: world.has_chain(Role.CLIENT), "lego's certificate", lego, within_s=60)
    first = {role: world.current(role).serial_number for role in Role}

    def renewed(role: Role) -> Callable[[], bool]:
        return lambda: world.has_chain(role) and world.current(role).serial_number != first[role]

    for role, daemon in ((Role.PROXY, caddy), (Role.CLIENT, lego)):
        room.until(renewed(role), f"the renewal of {role}", daemon, within_s=90)
        assert world.current(role).not_valid_after_utc.timestamp() > time.time()

    assert world.key_digest(Role.PROXY) == world.tlsa


@told_in_a_room
def test_an_expired_certificate_is_replaced_when_the_host_comes_back(room: Room) -> None:
    world = Certified(room, valid_s=10)
    caddy, lego = world.start_caddy(), world.start_lego()
    room.until(lambda: world.has_chain(Role.PROXY), "Caddy's certificate", caddy, within_s=60)
    room.until(lambda: world.has_chain(Role.CLIENT), "lego's certificate", lego, within_s=60)
    caddy.kill()
    lego.kill()
    ends = max(world.current(role).not_valid_after_utc.timestamp() for role in Role)
    time.sleep(max(0, ends - time.time()) + 1)

    caddy, lego = world.start_caddy(), world.start_lego()

    for role, daemon in ((Role.PROXY, caddy), (Role.CLIENT, lego)):

        def fresh(role: Role = role) -> bool:
            return world.has_chain(role) and world.current(role).not_valid_after_utc.timestamp() > ends

        room.until(fresh, f"a fresh certificate of {role}", daemon, within_s=60)
    assert world.key_digest(Role.PROXY) == world.tlsa


@told_in_a_room
def test_haraka_takes_up_a_new_certificate_and_a_dialogue_goes_on_with_the_old_one(room: Room) -> None:
    issuers = [Issuer.new(), Issuer.new()]
    room.certificate(Role.PROXY)
    target = room.roots[Role.PROXY] / "var/lib/certificate/mail.pem"

    def put(issuer: Issuer) -> None:
        fresh = target.with_name("fresh")
        fresh.write_bytes(issuer.certify([MAIL]))
        fresh.chmod(0o640)
        os.chown(fresh, 0, room.group(Role.PROXY, "certificate"))
        fresh.rename(target)

    put(issuers[0])
    room.start_postfix()
    haraka = room.start_haraka_in()
    trusts = [ssl.create_default_context(cadata=issuer.pem) for issuer in issuers]
    open_before = starttls(room, trusts[0])
    open_before.mail("eve@stranger.example")
    waiting = room.connect("internet", PROXY_4, 25)  # before its STARTTLS when the file changes

    put(issuers[1])

    starttls(room, trusts[1]).quit()
    assert open_before.rcpt("alice@example.org")[0] == 250
    assert open_before.data(b"From: eve@stranger.example\r\nSubject: old\r\n\r\nstill here\r\n")[0] == 250
    assert waiting.recv(100).startswith(b"220")
    assert haraka.process.poll() is None
    assert len(room.delivered(1)) == 1
