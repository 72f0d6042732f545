"""Mail that leaves through a provider's server: only there, only with TLS that holds, with a login."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from imagebuilder.dns.records import Record
from imagebuilder.services.haraka_out import relays_json
from imagebuilder.topology import Role, Topology
from imagebuilder.vm.authority import Issuer
from imagebuilder.vm.nameserver import NameServer
from imagebuilder.vm.namespace import bind_over
from tests.accept.impostor import self_signed
from tests.accept.proxy_room import ROOM, Room, records, told_in_a_room
from tests.accept.test_proxy_out import Mailbox, queued, sent_by_the_client, start_in, strangers_server
from tests.accept.test_proxy_policies import put_off

pytestmark = pytest.mark.accept

PROVIDER, ADDRESS, PASSWORD = "smtp.provider.example", "198.51.100.140", "of the provider"


def given(room: Room, domains: list[str]) -> None:
    """Let the topology name the provider's server for *domains*."""
    mail = {"domains": [{"name": "example.org"}], "mailboxes": [{"address": "alice@example.org"}]}
    relay = {"host": PROVIDER, "username": "our name", "domains": domains}
    topology = Topology.model_validate(
        {
            "proxy": {"hostname": "mail.example.org", "ipv4": "198.18.0.10/24", "ipv4_gateway": "198.18.0.1"},
            "client": {"hostname": "home.example.org"},
            "mail": mail | {"relays": [relay]},
            "admin": {"email": "alice@example.org"},
        }
    )
    root = room.roots[Role.PROXY]
    (ROOM / "relays.json").write_text(relays_json(topology))
    bind_over(ROOM / "relays.json", root / "etc/haraka-out/config/relays.json")
    folder = root / "run/credentials/haraka-out.service"
    folder.mkdir(parents=True)
    (folder / f"relay.{PROVIDER}.password").write_text(f"{PASSWORD}\n")
    room.names[Role.PROXY].stop()
    name = Record(f"{PROVIDER}.", "A", ADDRESS, "a provider")
    NameServer(room.parts.tools, ROOM / "dns-provider", Role.PROXY, ["127.0.0.1"]).start([*records(), name])
    room.ip("internet", f"address add {ADDRESS}/32 dev lo")


@contextmanager
def provider(room: Room, pem: bytes) -> Iterator[Mailbox]:
    """Run the provider's server, which takes mail from those alone who log in."""
    (ROOM / "provider.pem").write_bytes(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ROOM / "provider.pem")
    box = Mailbox()

    def judged(
        _server: object, _session: object, _envelope: object, _mechanism: str, data: LoginPassword
    ) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"our name", PASSWORD.encode()))

    controller = Controller(
        box, hostname=ADDRESS, port=587, tls_context=context, require_starttls=True,
        auth_required=True, authenticator=judged,
    )  # fmt: skip
    start_in("internet", controller)
    try:
        yield box
    finally:
        controller.stop()


def trusted(room: Room) -> Issuer:
    """Return an authority that the proxy trusts."""
    issuer = Issuer.new()
    (ROOM / "roots.pem").write_text(issuer.pem)
    bind_over(ROOM / "roots.pem", room.roots[Role.PROXY] / "etc/ssl/certs/ca-certificates.crt")
    return issuer


@told_in_a_room
def test_mail_to_a_named_domain_goes_through_the_provider_and_other_mail_does_not(room: Room) -> None:
    given(room, ["big.example"])
    pem = trusted(room).certify([PROVIDER])
    haraka = room.start_haraka_out()

    with provider(room, pem) as through, strangers_server(room) as straight:
        sent_by_the_client(room, "someone@big.example")
        sent_by_the_client(room, "eve@stranger.example")
        room.until(lambda: len(through.messages) == len(straight.messages) == 1, "both", haraka)

    assert through.messages[0]["X-RcptTo"] == "someone@big.example"
    assert through.sessions[0][1]
    room.until(lambda: queued(room) == [], "an empty queue")
    assert PASSWORD not in haraka.log.read_text()


@told_in_a_room
def test_a_provider_that_does_not_prove_its_name_gets_neither_mail_nor_password(room: Room) -> None:
    given(room, [])
    trusted(room)
    haraka = room.start_haraka_out()

    with provider(room, self_signed(PROVIDER)) as through, strangers_server(room) as straight:
        sent_by_the_client(room, "eve@stranger.example")
        room.until(lambda: put_off(queued(room)) == 1, "one that waits", haraka)

    assert through.messages == straight.messages == []


@told_in_a_room
def test_without_its_password_mail_waits(room: Room) -> None:
    given(room, [])
    (room.roots[Role.PROXY] / f"run/credentials/haraka-out.service/relay.{PROVIDER}.password").unlink()
    haraka = room.start_haraka_out()

    sent_by_the_client(room, "eve@stranger.example")

    room.until(lambda: put_off(queued(room)) == 1, "one that waits", haraka)
