"""A part of ours that fails, in whatever way, neither lets mail through nor turns it away for good."""

import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.run import run
from imagebuilder.topology import Role
from imagebuilder.vm.authority import tlsa
from tests.accept.impostor import self_signed
from tests.accept.proxy_room import PROXY_4, ROOM, Daemon, Room, told_in_a_room
from tests.accept.test_proxy_mail import ALICE, EVE, MAIL
from tests.accept.test_proxy_policies import Elsewhere

pytestmark = pytest.mark.accept

TUNNEL = "etc/haraka-in/plugins/tunnel.js"
POLICY = "etc/haraka-out/plugins/policy.js"


@contextmanager
def broken(room: Room, path: str, before: str, after: str) -> Iterator[None]:
    """Let the proxy's file *path* have *after* in place of *before*."""
    shown = room.roots[Role.PROXY] / path
    text = shown.read_text()
    assert before in text
    changed = ROOM / Path(path).name
    changed.write_text(text.replace(before, after, 1))
    run(["mount", "--bind", str(changed), str(shown)])
    try:
        yield
    finally:
        run(["umount", str(shown)])


def ended(daemon: Daemon) -> bool:
    return daemon.process.poll() is not None


def outcome(room: Room) -> int:
    """Return the reply to a stranger's mail, or 421 where there is none."""
    try:
        with room.smtp() as session:
            session.sendmail(EVE, [ALICE], MAIL)
    except smtplib.SMTPRecipientsRefused as error:
        return error.recipients[ALICE][0]
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
    except OSError:  # no server, or one that ended in the middle: the sender tries again
        return 421
    return 250


@told_in_a_room
def test_a_plugin_that_fails_is_a_temporary_failure_wherever_it_does(room: Room) -> None:
    room.start_postfix()
    hooks = [
        f"exports.hook_{name} = {kind}"
        for name, kind in (
            ("mail", "(next, connection, [, parameters]) => {"),
            ("rcpt_ok", "function (next, connection, recipient) {"),
            ("queue", "function (next, connection) {"),
        )
    ]
    breaks = [(hook, f"{hook} throw new Error('broken');") for hook in hooks]
    breaks += [(hook, f"{hook} process.exit(1);") for hook in hooks]
    breaks += [("await dialogue.open()", "throw new Error('broken')"), ("'use strict'", "this is no program")]

    outcomes = {}
    for before, after in breaks:
        with broken(room, TUNNEL, before, after):
            daemon = room.start(Role.PROXY, "haraka-in.service")
            room.until(lambda daemon=daemon: ended(daemon) or room.answers("internet", PROXY_4, 25), "haraka-in")  # type: ignore[misc]
            outcomes[after] = outcome(room)
            daemon.kill()

    assert {code // 100 for code in outcomes.values()} == {4}, outcomes
    assert room.inbox() == []


@told_in_a_room
def test_mail_waits_when_what_its_domain_demands_can_not_be_found_out(room: Room) -> None:
    world = Elsewhere(room)
    own = self_signed("mx.dane.example")
    world.domain("dane.example", own, ("_25._tcp.mx.dane.example", "TLSA", tlsa(own)))

    finding = "exports.prepare = async function (hmail, domain) {"
    with broken(room, POLICY, finding, f"{finding} null.broken;"), world.running():
        world.send("dane.example")
        world.waits("dane.example")
