"""Mail that has a virus is refused in the dialogue, and none gets past a scanner that can't answer."""

import hashlib
import ssl
import threading
from base64 import encodebytes
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm.authority import Issuer
from imagebuilder.vm.namespace import bind_over, entered
from tests.accept.client_letters import letter
from tests.accept.client_room import MIRROR, PASSWORDS, ROOM, ROUTER, TOPOLOGY, ClientRoom
from tests.accept.client_stories import Stories
from tests.accept.proxy_room import Unit

pytestmark = pytest.mark.accept

WANTED = f'[filter]\nvirus_scanner = true\nvirus_signatures = "https://{MIRROR}/clamav"'
story = Stories(running=True, described=TOPOLOGY.replace("[filter]", WANTED))
ALICE, BOB, ROBOT = PASSWORDS
FRIEND = "friend@stranger.example"
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
"""What every scanner calls a virus and is none, as its makers agreed."""
MULTIPART = "Content-Type: multipart/mixed; boundary=b\n"
ATTACHED = f"""\
--b

see there
--b
Content-Type: application/octet-stream; name=eicar.com
Content-Transfer-Encoding: base64

{encodebytes(EICAR).decode()}
--b--
"""


@pytest.fixture(scope="module")
def outcomes(tools: Tools, package_tree: Callable[[Role], Path]) -> dict[str, str] | None:
    return story.outcomes(tools, package_tree(Role.CLIENT))


def start_scanner(room: ClientRoom) -> None:
    """Start the scanner as its unit does, with the one signature that the test makes."""
    unit = Unit.read(room.root / "usr/lib/systemd/system/virus-scanner.service")
    room.client(["install", "-d", "-o", "clamav", "-g", "clamav", "/var/lib/clamav", "/run/clamav", "/run/clamav/work"])
    signature = f"{hashlib.md5(EICAR, usedforsecurity=False).hexdigest()}:{len(EICAR)}:Eicar-Test\n"
    (room.root / "var/lib/clamav/test.hdb").write_text(signature)
    room.daemon("clamd", unit.words("ExecStart"), user=unit.one("User"))
    room.until(lambda: (room.root / "run/clamav/clamd.ctl").exists(), "clamd")


@story
def test_until_the_scanner_has_signatures_mail_is_put_off(room: ClientRoom) -> None:
    code, reply = room.deliver(ALICE, "too early")

    assert code == 451
    assert "scanner" in reply
    assert room.folder(ALICE) == []


@story
def test_a_virus_is_refused_in_the_dialogue_and_other_mail_arrives(room: ClientRoom) -> None:
    start_scanner(room)

    code, reply = room.deliver(ALICE, "look at this", text=ATTACHED, headers=MULTIPART)

    assert code == 554
    assert "Eicar-Test" in reply
    assert room.deliver(ALICE, "harmless")[0] == 250
    assert room.receive(ALICE, "harmless")
    assert [message["Subject"] for message in room.folder(ALICE)] == ["harmless"]


@story
def test_a_users_virus_does_not_leave(room: ClientRoom) -> None:
    message = letter(ALICE, FRIEND, "from me", ATTACHED, MULTIPART)
    with room.submission(ALICE, PASSWORDS[ALICE]) as session:
        session.mail(ALICE)
        session.rcpt(FRIEND)

        assert session.data(message)[0] == 554
    assert room.sent == []


@story
def test_a_scanner_that_dies_puts_mail_off_again(room: ClientRoom) -> None:
    room.client(["sh", "-c", "kill -9 $(cat /run/clamav/clamd.pid)"])

    assert room.deliver(ALICE, "meanwhile")[0] == 451


@story
def test_signatures_are_asked_of_the_mirror_that_the_topology_names(room: ClientRoom) -> None:
    issuer, asked = Issuer.new(), []
    (ROOM / "mirror.pem").write_bytes(issuer.certify([MIRROR]))
    (ROOM / "roots.pem").write_text(issuer.pem)
    bind_over(ROOM / "roots.pem", room.root / "etc/ssl/certs/ca-certificates.crt")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ROOM / "mirror.pem")

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.headers['Host']}{self.path}")
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 (http.server's name)

        def log_message(self, *_: object) -> None:
            pass

    with entered("home"):
        server = HTTPServer((ROUTER, 443), Mirror)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    unit = Unit.read(room.root / "usr/lib/systemd/system/virus-signatures.service")

    once = [word for word in unit.words("ExecStart") if word not in ("--daemon", "--foreground")]
    found = room.as_user(unit.one("User"), unit.one("Group"), once)
    server.shutdown()

    assert not found  # there are none
    assert any(each.startswith(f"{MIRROR}/clamav/") for each in asked), (asked, room.lines[-20:])
