"""The secrets at rest: encrypted to the operator's keys value by value, or plain when that is asked for."""

import tomllib
from functools import partial
from pathlib import Path

import pytest
import tomli_w

from imagebuilder.errors import ImagebuilderError, WrongInputError
from imagebuilder.init import init
from imagebuilder.secrets.age import IDENTITY_VARIABLE, AgeKeyError, ClosedError, read_identities, recipient, usable
from imagebuilder.secrets.keys import Secrets, new_secrets, public_keys
from imagebuilder.secrets.rotation import imported
from imagebuilder.secrets.vault import Vault, named, read_secrets, read_vault, resealed, unnamed, write_vault
from imagebuilder.topology import load_public_keys, load_topology
from tests.unit.keys import age_pair, ssh_pair

SMALL = Path(__file__).parent.parent / "topologies/small.toml"


@pytest.fixture(scope="module")
def made() -> Secrets:
    return imported(new_secrets(load_topology(SMALL)), "tokens/dns", "T0KEN")


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The operator's SSH key, named by the environment; the value is its public half."""
    public = ssh_pair(tmp_path / "id")
    monkeypatch.setenv(IDENTITY_VARIABLE, str(tmp_path / "id"))
    return public


def sealed_values(path: Path) -> dict[str, str]:
    values = tomllib.loads(path.read_text())["sealed"]
    assert isinstance(values, dict)
    return values


def test_what_was_encrypted_to_an_ssh_key_is_read_again_with_it(made: Secrets, identity: str, tmp_path: Path) -> None:
    write_vault(tmp_path / "s.toml", Vault(made, (identity,)))

    assert read_secrets(tmp_path / "s.toml") == made


def test_any_one_of_several_keys_opens_it(made: Secrets, identity: str, tmp_path: Path) -> None:
    other = age_pair(tmp_path / "age")
    write_vault(tmp_path / "s.toml", Vault(made, (identity, other)))

    for name in ("id", "age"):
        assert read_secrets(tmp_path / "s.toml", partial(read_identities, tmp_path / name)) == made


def test_no_value_can_be_read_in_the_file_but_every_name_can(made: Secrets, identity: str, tmp_path: Path) -> None:
    write_vault(tmp_path / "s.toml", Vault(made, (identity,)))

    text = (tmp_path / "s.toml").read_text()
    for name, value in named(made).items():
        assert f'{name}" = """' in text or f'{name} = """' in text
        assert not any(line in text for line in value.splitlines() if line and "-----" not in line)


def test_only_the_value_that_changed_gets_other_bytes_so_that_changes_merge(
    made: Secrets, identity: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.toml"
    write_vault(path, Vault(made, (identity,)))
    before, vault = sealed_values(path), read_vault(path)

    write_vault(path, Vault(imported(vault.secrets, "tokens/dns", "0THER"), vault.recipients, vault.known))

    after = sealed_values(path)
    assert {name for name in after if after[name] != before[name]} == {"tokens/dns"}
    assert read_secrets(path).tokens == {"dns": "0THER"}


def test_new_recipients_get_every_value_anew_and_the_old_ones_none(
    made: Secrets, identity: str, tmp_path: Path
) -> None:
    path, new = tmp_path / "s.toml", age_pair(tmp_path / "age")
    write_vault(path, Vault(made, (identity,)))

    write_vault(path, resealed(read_vault(path), (new,)))

    assert read_secrets(path, lambda: read_identities(tmp_path / "age")) == made
    with pytest.raises(ClosedError, match="none of your keys opens"):
        read_secrets(path)


def test_a_strange_key_is_told_whom_to_ask(made: Secrets, identity: str, tmp_path: Path) -> None:
    write_vault(tmp_path / "s.toml", Vault(made, (age_pair(tmp_path / "age"),)))

    with pytest.raises(ClosedError, match=r"none of your keys opens .*s\.toml") as caught:
        read_secrets(tmp_path / "s.toml")

    assert caught.value.hint is not None
    assert "age1" in caught.value.hint
    assert IDENTITY_VARIABLE in caught.value.hint


def test_values_that_were_swapped_are_found_out(made: Secrets, identity: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    write_vault(path, Vault(made, (identity,)))
    document = tomllib.loads(path.read_text())
    values, (alice, bob) = document["sealed"], ("mailboxes/alice@example.org", "mailboxes/bob@example.org")
    values[alice], values[bob] = values[bob], values[alice]
    path.write_text(tomli_w.dumps(document))

    with pytest.raises(WrongInputError) as caught:
        read_secrets(path)

    assert {problem.place for problem in caught.value.problems} == {f"sealed.'{alice}'", f"sealed.'{bob}'"}


def test_a_damaged_value_is_named(made: Secrets, identity: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    write_vault(path, Vault(made, (identity,)))
    document = tomllib.loads(path.read_text())
    document["sealed"]["ssh/proxy"] = document["sealed"]["ssh/proxy"].replace("YWdl", "YWdm", 1)
    path.write_text(tomli_w.dumps(document))

    with pytest.raises(WrongInputError, match=r"sealed\.'ssh/proxy': it can't be decrypted"):
        read_secrets(path)


def test_an_encrypted_file_may_be_readable_and_a_plain_one_may_not(
    made: Secrets, identity: str, tmp_path: Path
) -> None:
    write_vault(tmp_path / "s.toml", Vault(made, (identity,)))
    (tmp_path / "s.toml").chmod(0o644)
    assert read_secrets(tmp_path / "s.toml") == made

    write_vault(tmp_path / "p.toml", Vault(made))
    (tmp_path / "p.toml").chmod(0o644)
    with pytest.raises(ImagebuilderError, match="mode 0644"):
        read_secrets(tmp_path / "p.toml")


def test_a_plain_file_asks_for_no_key(made: Secrets, tmp_path: Path) -> None:
    write_vault(tmp_path / "s.toml", Vault(made))

    assert read_secrets(tmp_path / "s.toml", lambda: pytest.fail("no key is needed")) == made


def test_names_lead_back_to_the_same_secrets_whatever_mailboxes_are_called(made: Secrets) -> None:
    odd = imported(made, "mailboxes/a/b@example.org", "correct horse")

    assert unnamed(Path("file"), named(odd)) == odd


@pytest.mark.parametrize("name", ["ssh", "dkim/example.org", "nothing/proxy", "wireguard/neither", ""])
def test_a_name_that_means_nothing_is_refused(made: Secrets, name: str) -> None:
    with pytest.raises(WrongInputError):
        unnamed(Path("file"), {**named(made), name: "value"})


def test_a_passphrase_is_asked_for_at_a_terminal_only(
    made: Secrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = ssh_pair(tmp_path / "id", "open sesame")
    write_vault(tmp_path / "s.toml", Vault(made, (public,)))
    with pytest.raises(AgeKeyError, match="protected by a passphrase, and nobody is there"):
        read_secrets(tmp_path / "s.toml", lambda: read_identities(tmp_path / "id"))

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for typed, error in (("open sesame", None), ("open barley", "that is not the passphrase")):
        monkeypatch.setattr("getpass.getpass", lambda *_, typed=typed: typed)
        if error:
            with pytest.raises(AgeKeyError, match=error):
                read_identities(tmp_path / "id")
        else:
            assert read_secrets(tmp_path / "s.toml", lambda: read_identities(tmp_path / "id")) == made


@pytest.mark.parametrize("text", ["", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp256 AAAA", "age1xyz", "PGP"])
def test_what_cannot_be_encrypted_to_is_refused(text: str) -> None:
    with pytest.raises(AgeKeyError, match="no key that can be encrypted to"):
        recipient(text)


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"-----BEGIN OPENSSH PRIVATE KEY-----\nxx\n", b"AGE-SECRET-KEY-1X"]
)
def test_a_file_without_a_private_key_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "id").write_bytes(content)

    with pytest.raises(AgeKeyError):
        read_identities(tmp_path / "id")


def test_of_the_administrators_keys_those_count_that_can_decrypt(tmp_path: Path) -> None:
    own = ssh_pair(tmp_path / "id")

    assert usable(['from="10.0.0.1" ' + own + " me@laptop", "sk-ssh-ed25519@openssh.com AAAA card"]) == (own,)


# --- init


def with_admin_key(path: Path, key: str) -> None:
    path.write_text(SMALL.read_text().replace("[admin]", f'[admin]\nssh_keys = ["{key}"]'))


def test_init_encrypts_to_the_administrators_key_and_leaves_no_password_beside(identity: str, tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    with_admin_key(path, identity)

    wrote = init(path)

    assert {one.name for one in wrote} == {"topology.secrets.toml", "topology.public.toml"}
    private = read_secrets(path.with_suffix(".secrets.toml"))
    assert set(private.passwords) == {"alice@example.org", "bob@example.org"}
    assert load_public_keys(path.with_suffix(".public.toml")) == public_keys(private)
    assert init(path) == ()


def test_init_refuses_to_lock_the_operator_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, strange = tmp_path / "topology.toml", ssh_pair(tmp_path / "strange")
    with_admin_key(path, strange)
    ssh_pair(tmp_path / "id")
    monkeypatch.setenv(IDENTITY_VARIABLE, str(tmp_path / "id"))

    with pytest.raises(ClosedError, match="none of your private keys would open"):
        init(path)

    assert not path.with_suffix(".secrets.toml").exists()


def test_init_keeps_secrets_plain_only_when_asked_or_without_any_key(
    identity: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "topology.toml"
    with_admin_key(path, identity)
    init(path, plain=True)
    assert "sealed" not in tomllib.loads(path.with_suffix(".secrets.toml").read_text())
    assert capsys.readouterr().err == ""

    other = tmp_path / "other.toml"
    other.write_text(SMALL.read_text())
    init(other)
    assert "sealed" not in tomllib.loads(other.with_suffix(".secrets.toml").read_text())
    assert "plain text" in capsys.readouterr().err


def test_a_plain_file_is_encrypted_later_and_opened_again_with_the_same_keys_in_it(
    identity: str, tmp_path: Path
) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(SMALL.read_text())
    init(path)
    before = read_secrets(path.with_suffix(".secrets.toml"))

    init(path, recipients=[identity])
    assert read_vault(path.with_suffix(".secrets.toml")).recipients == (identity,)
    assert read_secrets(path.with_suffix(".secrets.toml")) == before

    init(path, plain=True)
    assert read_vault(path.with_suffix(".secrets.toml")) == Vault(before)


def test_a_new_mailbox_in_an_encrypted_file_touches_no_other_value(identity: str, tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    with_admin_key(path, identity)
    init(path)
    before = sealed_values(path.with_suffix(".secrets.toml"))
    path.write_text(path.read_text() + '\n[[mail.mailboxes]]\naddress = "carol@example.org"\n')

    init(path)

    after = sealed_values(path.with_suffix(".secrets.toml"))
    assert {name for name in after if after[name] != before.get(name)} == {
        "mailboxes/carol@example.org",
        "passwords/carol@example.org",
    }
