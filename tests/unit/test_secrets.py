"""Private keys: made once, kept, handed to the right host, and never shown."""

import base64
import errno
import os
import stat
import subprocess
import threading
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError
from argon2.low_level import Type
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from imagebuilder.errors import ImagebuilderError, WrongInputError
from imagebuilder.secrets.keys import (
    Secrets,
    completed,
    credentials,
    new_password,
    new_secrets,
    public_keys,
    with_passwords,
)
from imagebuilder.secrets.vault import read_secrets, write_secrets
from imagebuilder.topology import Role, Topology, load_public_keys, load_topology
from imagebuilder.topology.load import judged, missing_keys

SMALL = Path(__file__).parent.parent / "topologies/small.toml"
ALICE, BOB = "alice@example.org", "bob@example.org"


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(SMALL)


@pytest.fixture(scope="module")
def made(topology: Topology) -> Secrets:
    return new_secrets(topology)


def grown() -> Topology:
    """Return the small topology with one more mailbox, domain and selector."""
    document: dict[str, Any] = tomllib.loads(SMALL.read_text())
    document["mail"]["mailboxes"].append({"address": "carol@example.net"})
    document["mail"]["domains"].append({"name": "example.net"})
    document["mail"]["domains"][0]["dkim_selector"] = "next"
    topology, problems = judged(document)
    assert topology is not None
    assert problems == ()
    return topology


def every_value(private: Secrets) -> list[str]:
    return [
        *private.wireguard.values(), *private.ssh.values(), *private.dkim.values(), *private.mailboxes.values()
    ]  # fmt: skip


def test_each_key_is_of_the_kind_that_its_daemon_wants(made: Secrets) -> None:
    assert set(made.wireguard) == set(made.ssh) == set(Role)
    for text in made.wireguard.values():
        assert len(base64.b64decode(text, validate=True)) == 32
    for pem in made.ssh.values():
        assert pem.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
        assert isinstance(load_ssh_private_key(pem.encode(), None), Ed25519PrivateKey)
    assert set(made.dkim) == {("example.org", "dkim")}
    for pem in made.dkim.values():
        key = load_pem_private_key(pem.encode(), None)
        assert pem.startswith("-----BEGIN PRIVATE KEY-----\n")
        assert isinstance(key, RSAPrivateKey)
        assert key.key_size == 2048


def test_no_two_keys_are_alike(topology: Topology, made: Secrets) -> None:
    values = every_value(made) + every_value(new_secrets(topology))

    assert len(set(values)) == len(values)


def test_a_hash_is_argon2id_with_one_lane_and_64_mib_as_dovecot_makes_them(made: Secrets) -> None:
    for value in made.mailboxes.values():
        assert value.startswith("{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$")
        parameters = extract_parameters(value.removeprefix("{ARGON2ID}"))
        assert (parameters.type, parameters.salt_len, parameters.hash_len) == (Type.ID, 16, 32)


def test_the_passwords_of_new_mailboxes_come_back_once_and_fit_the_hashes(topology: Topology) -> None:
    private, passwords = completed(None, topology)

    assert set(passwords) == {ALICE, BOB}
    for address, password in passwords.items():
        assert PasswordHasher().verify(private.mailboxes[address].removeprefix("{ARGON2ID}"), password)
    with pytest.raises(VerifyMismatchError):
        PasswordHasher().verify(private.mailboxes[ALICE].removeprefix("{ARGON2ID}"), passwords[BOB])
    assert completed(private, topology) == (private, {})


def test_what_is_there_stays_and_what_is_missing_is_added(made: Secrets) -> None:
    more, passwords = completed(made, grown())

    assert set(passwords) == {"carol@example.net"}
    assert set(more.dkim) == {("example.org", "dkim"), ("example.org", "next"), ("example.net", "dkim")}
    assert more.wireguard == made.wireguard
    assert more.ssh == made.ssh
    assert dict(more.dkim) | dict(made.dkim) == more.dkim
    assert dict(more.mailboxes) | dict(made.mailboxes) == more.mailboxes


def test_one_lost_key_is_replaced_alone(made: Secrets, topology: Topology) -> None:
    halved = Secrets({Role.PROXY: made.wireguard[Role.PROXY]}, made.ssh, made.dkim, made.mailboxes)

    whole, _ = completed(halved, topology)

    assert whole.wireguard[Role.PROXY] == made.wireguard[Role.PROXY]
    assert whole.wireguard[Role.CLIENT] != made.wireguard[Role.CLIENT]


def test_given_passwords_take_the_place_of_the_old_ones(made: Secrets) -> None:
    changed = with_passwords(made, {ALICE: "correct horse"})

    assert PasswordHasher().verify(changed.mailboxes[ALICE].removeprefix("{ARGON2ID}"), "correct horse")
    assert changed.mailboxes[BOB] == made.mailboxes[BOB]
    assert changed.dkim == made.dkim


def test_passwords_are_long_and_hold_nothing_that_is_misread() -> None:
    drawn = {new_password() for _ in range(500)}

    assert len(drawn) == 500
    assert all(len(password.replace("-", "")) == 20 for password in drawn)
    assert not set("".join(drawn)) & set("lo01 '\"\\:{}\t")


def test_public_keys_belong_to_the_private_ones(made: Secrets) -> None:
    public = public_keys(made)
    other = X25519PrivateKey.generate()

    for role in Role:
        own = X25519PrivateKey.from_private_bytes(base64.b64decode(made.wireguard[role]))
        known = X25519PublicKey.from_public_bytes(base64.b64decode(public.wireguard.of(role)))
        assert own.exchange(other.public_key()) == other.exchange(known)
        assert public.ssh.of(role).startswith("ssh-ed25519 AAAA")
    assert public.wireguard.proxy != public.wireguard.client


def test_nothing_private_is_in_the_public_keys(made: Secrets) -> None:
    text = public_keys(made).model_dump_json()

    assert "PRIVATE" not in text
    assert not any(value in text for value in every_value(made))


def test_each_host_gets_its_own_keys_and_the_proxy_nothing_of_the_mailboxes(made: Secrets, topology: Topology) -> None:
    proxy, client = (credentials(made, topology, role) for role in (Role.PROXY, Role.CLIENT))

    assert set(proxy) == {"network.wireguard.private.50-wg0", "ssh.hostkey", "tls.key"}
    assert set(client) == {*(set(proxy) - {"tls.key"}), "mailboxes.passwd", "dkim.example.org.dkim.key"}
    assert proxy["ssh.hostkey"] == made.ssh[Role.PROXY].encode()
    assert proxy["network.wireguard.private.50-wg0"].strip() == made.wireguard[Role.PROXY].encode()
    assert client["dkim.example.org.dkim.key"] == made.dkim["example.org", "dkim"].encode()
    for name in proxy.keys() & client.keys():
        assert proxy[name] != client[name]


def test_the_mailboxes_are_lines_of_a_passwd_file(made: Secrets, topology: Topology) -> None:
    lines = credentials(made, topology, Role.CLIENT)["mailboxes.passwd"].decode().splitlines()

    assert lines == [f"{address}:{made.mailboxes[address]}::::::" for address in (ALICE, BOB)]
    assert all(line.count(":") == 7 for line in lines)


def test_keys_of_domains_and_mailboxes_that_are_gone_reach_no_host(made: Secrets, topology: Topology) -> None:
    more, _ = completed(made, grown())

    assert credentials(more, topology, Role.CLIENT) == credentials(made, topology, Role.CLIENT)


def test_a_key_that_is_missing_is_named_and_init_is_the_way_out(made: Secrets) -> None:
    with pytest.raises(ImagebuilderError, match=r"DKIM key of example\.org with the selector 'next'") as caught:
        credentials(made, grown(), Role.CLIENT)

    assert caught.value.hint == "imagebuilder init adds missing keys"


def test_what_is_written_is_read_again(made: Secrets, tmp_path: Path) -> None:
    write_secrets(tmp_path / "s.toml", made)

    assert read_secrets(tmp_path / "s.toml") == made
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_file_is_private_whatever_the_umask(made: Secrets, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_secrets(tmp_path / "s.toml", made)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "s.toml").stat().st_mode) == 0o600


def test_the_file_is_at_no_moment_open_to_others(made: Secrets, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("")
    path.chmod(0o644)
    modes: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for entry in os.scandir(tmp_path):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                if status.st_size:
                    modes.add(stat.S_IMODE(status.st_mode))

    watcher = threading.Thread(target=watch)
    before = os.umask(0)
    watcher.start()
    try:
        for _ in range(20):
            write_secrets(path, made)
    finally:
        os.umask(before)
        done.set()
        watcher.join()

    assert modes == {0o600}


def test_a_full_disk_leaves_the_old_secrets_and_nothing_else(
    made: Secrets, topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.toml"
    write_secrets(path, made)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ImagebuilderError, match="can't be written: no space left"):
        write_secrets(path, new_secrets(topology))

    assert read_secrets(path) == made
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.toml"]


def test_a_link_to_a_safer_place_stays_a_link(made: Secrets, tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    (tmp_path / "s.toml").symlink_to("vault/s.toml")

    write_secrets(tmp_path / "s.toml", made)

    assert (tmp_path / "s.toml").is_symlink()
    assert read_secrets(tmp_path / "vault/s.toml") == made


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o700])
def test_secrets_that_others_can_read_are_refused_with_the_cure(made: Secrets, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s.toml"
    write_secrets(path, made)
    path.chmod(mode)

    with pytest.raises(ImagebuilderError, match=f"has mode 0{mode:o}") as caught:
        read_secrets(path)

    assert caught.value.hint == f"chmod 600 {path}"


def test_missing_secrets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImagebuilderError, match="there are no secrets at") as caught:
        read_secrets(tmp_path / "s.toml")

    assert caught.value.hint == "imagebuilder init makes them"


def test_neither_repr_nor_str_shows_a_secret(made: Secrets) -> None:
    assert repr(made) == str(made) == "Secrets()"


@pytest.mark.parametrize(
    ("table", "key", "value", "place"),
    [
        ("wireguard", "proxy", "SECRETbutShort", "wireguard.proxy"),
        ("wireguard", "proxi", "SECRET", "wireguard.proxi"),
        ("ssh", "client", "-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n", "ssh.client"),
        ("mailboxes", ALICE, "SECRET", f"mailboxes.'{ALICE}'"),
        ("mailboxes", ALICE, "{PLAIN}SECRET", f"mailboxes.'{ALICE}'"),
        ("mailboxes", ALICE, "{ARGON2ID}$argon2id$v=19$m=1,t=1,p=1$a$b::::::\nSECRET", f"mailboxes.'{ALICE}'"),
        ("dkim", "example.org", {"dkim": "SECRET"}, "dkim.'example.org'.dkim"),
        ("dkim", "example.org", "SECRET", "dkim.'example.org'"),
    ],
)
def test_damaged_secrets_are_named_by_place_and_never_shown(
    made: Secrets, tmp_path: Path, table: str, key: str, value: object, place: str
) -> None:
    path = tmp_path / "s.toml"
    write_secrets(path, made)
    document = tomllib.loads(path.read_text())
    document[table][key] = value
    path.write_text(tomli_w.dumps(document))

    with pytest.raises(WrongInputError) as caught:
        read_secrets(path)

    assert {problem.place for problem in caught.value.problems} == {place}
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_hash_made_elsewhere_is_kept(made: Secrets, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    elsewhere = "{BLF-CRYPT}$2y$05$bvIG6Nmid91Mu9RcmmWZfO5HJIMCT8riNW0hEp8f6/FuA2/mHZFpe"
    write_secrets(path, Secrets(made.wireguard, made.ssh, made.dkim, {ALICE: elsewhere}))

    assert read_secrets(path).mailboxes == {ALICE: elsewhere}


def test_public_keys_are_checked_when_read(made: Secrets, topology: Topology, tmp_path: Path) -> None:
    path = tmp_path / "topology.public.toml"
    good = public_keys(made).model_dump(mode="json")
    path.write_text(tomli_w.dumps(good))

    assert load_public_keys(path, topology) == public_keys(made)

    good["wireguard"]["proxy"] = "short"
    good["ssh"]["client"] = "ssh-ed25519 AAAA"
    good["dkim"]["example.org"]["dkim"] = good["wireguard"]["client"]
    good["more"] = 1
    path.write_text(tomli_w.dumps(good))
    with pytest.raises(WrongInputError) as caught:
        load_public_keys(path)
    assert {problem.place for problem in caught.value.problems} == {
        "wireguard.proxy", "ssh.client", "dkim.'example.org'.dkim", "more"
    }  # fmt: skip
    assert caught.value.hint == "imagebuilder init writes the public keys"


def test_public_keys_that_a_grown_topology_lacks_are_named(made: Secrets) -> None:
    assert [problem.place for problem in missing_keys(public_keys(made), grown())] == [
        "dkim.'example.org'", "dkim.'example.net'"
    ]  # fmt: skip


def test_openssl_reads_the_dkim_key_and_finds_the_same_public_half(made: Secrets) -> None:
    pem = made.dkim["example.org", "dkim"]
    try:
        done = subprocess.run(
            ["openssl", "pkey", "-pubout", "-outform", "DER"], input=pem.encode(), capture_output=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("there is no openssl on this machine")

    assert base64.b64encode(done.stdout).decode() == public_keys(made).dkim["example.org"]["dkim"]


def test_a_relays_password_reaches_the_proxy_alone_and_is_missed_with_what_to_type(topology: Topology) -> None:
    relay = {"host": "smtp.example.com", "username": "alice"}
    wanted = Topology.model_validate(topology.model_dump() | {"mail": topology.mail.model_dump() | {"relays": [relay]}})
    private = new_secrets(wanted)

    with pytest.raises(ImagebuilderError, match=r"password of the relay smtp\.example\.com") as lacking:
        credentials(private, wanted, Role.PROXY)
    assert "secrets import tokens/relay.smtp.example.com" in str(lacking.value.hint)
    whole = replace(private, tokens={"relay.smtp.example.com": "a word"})

    assert credentials(whole, wanted, Role.PROXY)["relay.smtp.example.com.password"] == b"a word"
    assert b"a word" not in b"".join(credentials(whole, wanted, Role.CLIENT).values())
