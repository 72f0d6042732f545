"""The client's certificate by a DNS record: lego of the image, a name server that takes signed updates, and pebble.

```
 internet: pebble, knotd that is the provider's (RFC 2136) ── client (lego)
```
"""

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from imagebuilder.render import render_role
from imagebuilder.run import environment, run
from imagebuilder.secrets.keys import credentials, new_secrets, public_keys
from imagebuilder.services import Site
from imagebuilder.topology import Role
from imagebuilder.vm.namespace import bind_over, entered
from tests.accept.proxy_room import PROXY_4, ROOM, Room, records, told_in_a_room
from tests.accept.test_certificates import Certified

pytestmark = pytest.mark.accept

PROVIDER = "198.51.100.53"
ZONE = "example.org."
KEY_NAME, SECRET, WRONG_SECRET = "operator", "c2VjcmV0IG9mIHRoZSBvcGVyYXRvcg==", "bm90IGhpcyBzZWNyZXQgYXQgYWxsLCBubw=="
SOA = "3600 IN SOA ns.example.org. hostmaster.example.org. 1 1800 900 604800 5\n"
KEEPER = PurePosixPath("usr/lib/imagebuilder/keep-certificate")


class Provider:
    """The operator's DNS provider, as *room* knows it, and the client's resolver, which knows the same names."""

    def __init__(self, room: Room) -> None:
        self.room = room
        room.ip("internet", f"address add {PROVIDER}/32 dev lo")
        room.names[Role.CLIENT].stop()
        self._knotd("internet", ["127.0.0.1", PROVIDER])
        self._knotd(Role.CLIENT, ["127.0.0.1"])

    def _knotd(self, network: str, addresses: Sequence[str]) -> None:
        folder = ROOM / f"provider-{network}"
        folder.mkdir()
        rows = [f"{each}\n" for each in records()]
        inside = [row for row in rows if row.split()[0].endswith(ZONE)]
        outside = [row for row in rows if row not in inside]
        nearest = f"ns.{ZONE} 3600 IN A {PROVIDER}\n"
        glue = f"{ZONE} 3600 IN NS ns.{ZONE}\n{nearest}"
        (folder / "root.zone").write_text("".join([f". {SOA}. 3600 IN NS ns.{ZONE}\n", glue, *outside]))
        (folder / "own.zone").write_text("".join([f"{ZONE} {SOA}", glue, *inside]))
        (folder / "knot.conf").write_text(
            f"server:\n  rundir: {folder}\n  listen: [{', '.join(f'{each}@53' for each in addresses)}]\n"
            f"database:\n  storage: {folder}\n"
            f"key:\n  - id: {KEY_NAME}\n    algorithm: hmac-sha256\n    secret: {SECRET}\n"
            f"acl:\n  - id: operators\n    key: {KEY_NAME}\n    action: update\n"
            f"template:\n  - id: default\n    storage: {folder}\n    zonefile-sync: -1\n"
            "    zonefile-load: difference-no-serial\n    journal-content: all\n"
            f"zone:\n  - domain: .\n    file: root.zone\n  - domain: {ZONE}\n    file: own.zone\n    acl: operators\n"
        )
        tools = self.room.parts.tools
        run(tools.argv(["knotc", "-c", str(folder / "knot.conf"), "zone-check"], read=[folder]))
        argv = tools.argv(["knotd", "-c", str(folder / "knot.conf")], network=True, write=[folder])
        with entered(network), (ROOM / f"provider-{network}.txt").open("wb") as log:
            subprocess.Popen(argv, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.room.until(lambda: self.room.answers(network, addresses[0], 53), "the provider's server")


def by_record(room: Room, secret: str) -> Certified:
    """Return a world in which the operator's provider takes updates that are signed right; he gave *secret* for it."""
    world = Certified(room)
    world.names.stop()
    Provider(room)
    acme = world.topology.acme.model_copy(update={"dns_provider": "rfc2136"})
    topology = world.topology.model_copy(update={"acme": acme})
    tokens = {
        "acme.rfc2136_nameserver": PROVIDER,
        "acme.rfc2136_tsig_algorithm": "hmac-sha256.",
        "acme.rfc2136_tsig_key": f"{KEY_NAME}.",
        "acme.rfc2136_tsig_secret": secret,
        "acme.rfc2136_polling_interval": "1",
    }
    private = replace(new_secrets(topology), tokens=tokens)
    room.client_credentials["acme.env"] = credentials(private, topology, Role.CLIENT)["acme.env"]
    rendered = render_role(Site(topology, public_keys(private), Role.CLIENT))
    keeper = ROOM / "keep-certificate"
    keeper.write_bytes(rendered.files[KEEPER].content)
    keeper.chmod(0o755)
    bind_over(keeper, room.roots[Role.CLIENT] / KEEPER)
    return world


@told_in_a_room
def test_the_client_gets_its_certificate_by_a_dns_record_that_a_token_lets_it_make(room: Room) -> None:
    world = by_record(room, SECRET)

    lego = world.start_lego()

    room.until(lambda: world.has_chain(Role.CLIENT), "lego's certificate", lego, within_s=90)
    assert world.is_from_the_authority(Role.CLIENT)
    assert not room.answers("internet", PROXY_4, 80)  # nobody was there to answer by HTTP
    assert SECRET not in lego.log.read_text()


@told_in_a_room
def test_a_token_that_the_provider_refuses_is_told_and_tried_again_later(room: Room) -> None:
    world = by_record(room, WRONG_SECRET)

    lego = world.start_lego()

    room.until(lambda: "no certificate, attempt 1, next in 10 s" in lego.log.read_text(), "lego's word", lego)
    assert not world.has_chain(Role.CLIENT)
    assert lego.process.poll() is None
    assert WRONG_SECRET not in lego.log.read_text()
