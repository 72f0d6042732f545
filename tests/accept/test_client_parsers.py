"""The real programs accept the configuration of the client, and of what both hosts share."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from tests.accept.client_room import PASSWORDS, ClientRoom
from tests.accept.client_stories import Stories

pytestmark = pytest.mark.accept

story = Stories(running=False)
UNITS = ("dovecot", "nftables", "postfix", "rspamd", "ssh", "systemd-networkd", "unbound", "valkey-server")
ALICE, BOB, ROBOT = PASSWORDS


@pytest.fixture(scope="module")
def outcomes(tools: Tools, package_tree: Callable[[Role], Path]) -> dict[str, str] | None:
    return story.outcomes(tools, package_tree(Role.CLIENT))


def quietly(room: ClientRoom, command: str) -> str:
    """Run *command*, which must have nothing to say on stderr, and return its output."""
    done = room.client(shlex.split(command))
    assert done.stderr == ""
    return done.stdout


@story
def test_nft_takes_the_firewall_twice_and_ends_with_one_table(room: ClientRoom) -> None:
    for _ in range(2):
        quietly(room, "nft -f /etc/nftables.conf")

    rules = quietly(room, "nft list ruleset")

    assert rules.count("table ") == 1
    assert rules.count("policy drop;") == 2
    assert "maxseg size set 1380" in rules
    assert "maxseg size set 1360" in rules


@story
def test_postfix_knows_every_setting(room: ClientRoom) -> None:
    assert "myhostname = mail.example.org" in quietly(room, "postconf -n")
    services = quietly(room, "postconf -M")
    assert "10.0.0.2:10587" in services
    assert "[fd3b:9c0e:52a7::2]:10587" in services
    quietly(room, "postconf -P")


@story
def test_postfix_reads_its_maps(room: ClientRoom) -> None:
    def looked_up(key: str, table: str) -> str:
        return room.client(["postmap", "-q", key, table], check=False).stdout.strip()

    aliases, owners = "texthash:/etc/postfix/aliases", "texthash:/etc/postfix/owners"
    assert looked_up(ALICE, aliases) == ALICE
    assert looked_up("@example.org", aliases) == BOB
    assert looked_up("team@example.org", owners) == f"{ALICE},{BOB}"
    assert looked_up(ROBOT, "texthash:/etc/postfix/send_only").startswith("550 5.2.1 ")
    assert looked_up(ALICE, "texthash:/etc/postfix/send_only") == ""
    assert looked_up("10.0.0.1", "cidr:/etc/postfix/unannounced").startswith("DEFER")
    assert looked_up("fd3b:9c0e:52a7::1", "cidr:/etc/postfix/unannounced").startswith("DEFER")
    assert looked_up("198.51.100.25", "cidr:/etc/postfix/unannounced") == ""


@story
def test_dovecot_takes_its_configuration(room: ClientRoom) -> None:
    shown = quietly(room, "doveconf -n")

    assert "haproxy_trusted_networks = 10.0.0.1/32 fd3b:9c0e:52a7::1/128" in shown
    assert "port = 10993" in shown


@story
def test_dovecot_finds_each_user_with_a_quota_of_its_own(room: ClientRoom) -> None:
    users = (room.root / "etc/dovecot/users").read_text()

    assert f"{BOB}:::::::userdb_quota_storage_size=1M\n" in users
    assert "$argon2" not in users


@story
def test_a_script_arrives_as_it_was_written_and_compiles(room: ClientRoom) -> None:
    script = next(box.sieve for box in room.topology.mail.mailboxes if box.address == ALICE)

    assert (room.root / f"run/dovecot-sieve/users/{ALICE}.sieve").read_text() == script
    for folder in ("/run/dovecot-sieve", "/run/dovecot-sieve/users"):
        quietly(room, f"sievec {folder}")
    assert (room.root / f"run/dovecot-sieve/users/{ALICE}.svbin").exists()
    assert (room.root / "run/dovecot-sieve/spam.svbin").exists()


@story
def test_rspamd_takes_its_configuration(room: ClientRoom) -> None:
    assert "syntax OK" in room.client(["rspamadm", "configtest"]).stdout


@story
def test_unbound_takes_its_configuration(room: ClientRoom) -> None:
    assert "no errors" in quietly(room, "unbound-checkconf")


@story
def test_sshd_takes_keys_and_nothing_else(room: ClientRoom) -> None:
    room.client(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/tmp/hostkey"])
    room.client(["mkdir", "-p", "/run/sshd"])

    shown = quietly(room, "/usr/sbin/sshd -T -o HostKey=/tmp/hostkey").splitlines()

    for line in (
        "listenaddress 10.0.0.2:22",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "permitrootlogin without-password",
        "authenticationmethods publickey",
        "authorizedkeysfile /etc/ssh/authorized_keys.d/%u",
    ):
        assert line in shown
    listening = {line for line in shown if line.startswith("listenaddress")}
    assert listening == {"listenaddress 10.0.0.2:22", "listenaddress [fd3b:9c0e:52a7::2]:22"}


@story
def test_root_has_no_password(room: ClientRoom) -> None:
    passwords = [line.split(":")[1] for line in (room.root / "etc/shadow").read_text().splitlines()]

    assert passwords
    assert all(password.startswith(("!", "*")) for password in passwords)


@story
def test_systemd_takes_the_units_with_what_we_add(room: ClientRoom) -> None:
    units = " ".join(f"{unit}.service" for unit in UNITS)

    quietly(room, f"systemd-analyze verify --man=no --recursive-errors=no {units}")


@story
def test_systemd_knows_every_setting_of_the_networks(room: ClientRoom) -> None:
    room.client(
        ["install", "-d", "-o", "systemd-network", "-g", "systemd-network", "/run/systemd", "/run/systemd/netif"]
    )
    done = room.client(["timeout", "2", "/usr/lib/systemd/systemd-networkd"], check=False)
    said = done.stdout + done.stderr

    # it came as far as to use what it read
    assert "50-wg0.network" in said, said
    assert "Unknown" not in said, said
    assert "Failed to parse" not in said, said


@story
def test_nothing_of_the_client_tells_a_secret(room: ClientRoom) -> None:
    for folder in ("etc/postfix", "etc/dovecot", "etc/rspamd/local.d", "etc/systemd/network", "etc/ssh"):
        for path in (room.root / folder).rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert b"PRIVATE KEY" not in content
                assert b"$argon2" not in content
