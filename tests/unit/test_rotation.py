"""Replacing secrets by name, without a moment in which mail is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from imagebuilder.cli import main
from imagebuilder.secrets.keys import Secrets, credentials, new_secrets, public_keys
from imagebuilder.secrets.rotation import SecretNameError, imported, needed, removed, rotated
from imagebuilder.secrets.vault import named, read_secrets
from imagebuilder.topology import Role, Topology, load_topology

SMALL = Path(__file__).parent.parent / "topologies/small.toml"
ALICE = "alice@example.org"


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(SMALL)


@pytest.fixture(scope="module")
def made(topology: Topology) -> Secrets:
    return new_secrets(topology)


def differing(one: Secrets, other: Secrets) -> set[str]:
    """Return the names of what is not the same in both."""
    mine, yours = named(one), named(other)
    return {name for name in mine.keys() | yours.keys() if mine.get(name) != yours.get(name)}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("wireguard", {"wireguard/proxy", "wireguard/client"}),
        ("wireguard/proxy", {"wireguard/proxy"}),
        ("ssh/client", {"ssh/client"}),
        ("tls", {"tls"}),
        ("dkim/example.org", {"dkim/example.org/dkim2"}),
        ("dkim/example.org/autumn", {"dkim/example.org/autumn"}),
        (f"mailboxes/{ALICE}", {f"mailboxes/{ALICE}"}),
    ],
)
def test_only_what_was_named_is_made_anew(made: Secrets, topology: Topology, name: str, changed: set[str]) -> None:
    assert differing(made, rotated(made, topology, name)) == changed


def test_each_dkim_rotation_takes_a_selector_of_its_own(made: Secrets, topology: Topology) -> None:
    thrice = rotated(rotated(rotated(made, topology, "dkim/example.org"), topology, "dkim/example.org"),
                     topology, "dkim/example.org")  # fmt: skip

    assert {selector for _, selector in thrice.dkim} == {"dkim", "dkim2", "dkim3", "dkim4"}


def test_the_key_in_use_signs_on_until_the_topology_names_the_other(made: Secrets, topology: Topology) -> None:
    both = rotated(made, topology, "dkim/example.org")

    assert credentials(both, topology, Role.CLIENT) == credentials(made, topology, Role.CLIENT)
    assert set(public_keys(both).dkim["example.org"]) == {"dkim", "dkim2"}


def test_the_selector_in_use_is_not_given_another_key(made: Secrets, topology: Topology) -> None:
    with pytest.raises(SecretNameError, match="could not be checked any more"):
        rotated(made, topology, "dkim/example.org/dkim")


def test_what_the_topology_needs_is_not_removed(made: Secrets, topology: Topology) -> None:
    for name in needed(topology):
        with pytest.raises(SecretNameError, match="the topology needs"):
            removed(made, topology, name)

    both = rotated(made, topology, "dkim/example.org")
    assert removed(both, topology, "dkim/example.org/dkim2") == made


@pytest.mark.parametrize(
    "name", ["", "nothing", "wireguard/both", "dkim", "dkim/example.com", "mailboxes/x@y", "tokens/x"]
)
def test_what_does_not_exist_is_not_rotated(made: Secrets, topology: Topology, name: str) -> None:
    with pytest.raises(SecretNameError):
        rotated(made, topology, name)


def test_a_token_comes_from_its_provider(made: Secrets, topology: Topology) -> None:
    with pytest.raises(SecretNameError, match="made by a provider"):
        rotated(imported(made, "tokens/dns", "T0KEN\n"), topology, "tokens/dns")


def test_a_password_is_taken_in_plain_and_kept_as_its_hash(made: Secrets) -> None:
    changed = imported(made, f"mailboxes/{ALICE}", "correct horse\n")

    assert PasswordHasher().verify(changed.mailboxes[ALICE].removeprefix("{ARGON2ID}"), "correct horse")
    assert "correct horse" not in "".join(named(changed).values())


def test_every_value_can_be_taken_out_and_put_in_again(made: Secrets, topology: Topology) -> None:
    whole = imported(made, "tokens/dns", "T0KEN")

    for name, value in named(whole).items():
        assert imported(whole, name, value.rstrip("\n") + "\n") == whole


# --- the command


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "topology.toml"
    path.write_text(SMALL.read_text())
    assert main(["init", "--plain", "-t", str(path)]) == 0
    return path


def test_all_secrets_go_out_and_in_again(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_secrets(site.with_suffix(".secrets.toml"))
    capsys.readouterr()
    assert main(["secrets", "export", "-t", str(site)]) == 0
    text = capsys.readouterr().out
    site.with_suffix(".secrets.toml").unlink()

    argv = [sys.executable, "-m", "imagebuilder", "secrets", "import", "-t", str(site)]
    subprocess.run(argv, input=text, text=True, check=True, env={**os.environ}, capture_output=True)

    assert read_secrets(site.with_suffix(".secrets.toml")) == before


def test_the_list_shows_public_halves_and_no_secret(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private = read_secrets(site.with_suffix(".secrets.toml"))
    capsys.readouterr()

    assert main(["secrets", "list", "-t", str(site), "--json"]) == 0

    shown = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(shown)}
    assert set(rows) == set(named(private))
    assert rows["wireguard/proxy"]["public"] == public_keys(private).wireguard.proxy
    assert not any(value.strip() in shown for value in named(private).values())


def test_a_rotation_reaches_the_public_file_and_a_new_password_its_file(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, passwords = site.with_suffix(".public.toml"), site.with_suffix(".passwords.txt")
    before = public.read_text(), passwords.read_text()

    assert main(["secrets", "rotate", "wireguard", "-t", str(site)]) == 0
    assert main(["secrets", "rotate", f"mailboxes/{ALICE}", "-t", str(site)]) == 0

    assert public.read_text() != before[0]
    changed = set(passwords.read_text().splitlines()) ^ set(before[1].splitlines())
    assert len(changed) == 2
    assert all(line.startswith(ALICE) for line in changed)


@pytest.mark.parametrize(
    "argv", [["rotate"], ["rotate", "nothing"], ["remove", "ssh/proxy"], ["export", "x"], ["list", "--plain"]]
)
def test_what_makes_no_sense_is_a_sentence_and_changes_nothing(
    site: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in site.parent.iterdir()}

    assert main(["secrets", *argv, "-t", str(site)]) == 2

    assert capsys.readouterr().err.startswith("error: ") or "error: " in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in site.parent.iterdir()} == before
