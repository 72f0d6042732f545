"""Starting a topology and completing its keys, without ever replacing one."""

import fcntl
import stat
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError, WrongInputError
from imagebuilder.init import init, template
from imagebuilder.secrets.keys import public_keys
from imagebuilder.secrets.vault import read_secrets
from imagebuilder.topology import load_public_keys, load_topology


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "topology.toml"


def names(paths: tuple[Path, ...]) -> list[str]:
    return sorted(path.name for path in paths)


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_in_an_empty_folder_it_writes_a_topology_and_its_keys(path: Path) -> None:
    wrote = init(path)

    assert names(wrote) == sorted(
        ["topology.toml", "topology.secrets.toml", "topology.public.toml", "topology.passwords.txt"]
    )
    assert names(wrote) == sorted(contents(path.parent))
    topology = load_topology(path)
    assert load_public_keys(path.with_suffix(".public.toml"), topology) == public_keys(
        read_secrets(path.with_suffix(".secrets.toml"))
    )


def test_the_secret_files_are_private_and_the_others_readable(path: Path) -> None:
    init(path)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}

    assert modes["topology.secrets.toml"] == modes["topology.passwords.txt"] == 0o600
    assert modes["topology.public.toml"] == 0o644


def test_a_second_run_finds_nothing_to_do(path: Path) -> None:
    init(path)
    before = contents(path.parent)

    assert init(path) == ()
    assert contents(path.parent) == before


def test_a_new_mailbox_gets_a_password_and_all_others_keep_theirs(path: Path) -> None:
    init(path)
    before = read_secrets(path.with_suffix(".secrets.toml"))
    old_password = path.with_suffix(".passwords.txt").read_text()
    path.write_text(path.read_text() + '\n[[mail.mailboxes]]\naddress = "carol@example.org"\n')

    wrote = init(path)

    after = read_secrets(path.with_suffix(".secrets.toml"))
    assert names(wrote) == ["topology.passwords.txt", "topology.secrets.toml"]
    assert set(after.mailboxes) == {"alice@example.org", "carol@example.org"}
    assert (after.wireguard, after.ssh, after.dkim) == (before.wireguard, before.ssh, before.dkim)
    assert after.mailboxes["alice@example.org"] == before.mailboxes["alice@example.org"]
    assert set(old_password.splitlines()) < set(path.with_suffix(".passwords.txt").read_text().splitlines())


def test_a_password_file_that_was_deleted_stays_away(path: Path) -> None:
    init(path)
    path.with_suffix(".passwords.txt").unlink()

    assert init(path) == ()


@pytest.mark.parametrize("damage", [None, "", "[wireguard\n", "\x00"])
def test_lost_or_damaged_public_keys_are_made_anew_from_the_private_ones(path: Path, damage: str | None) -> None:
    init(path)
    public = path.with_suffix(".public.toml")
    before = public.read_text()
    if damage is None:
        public.unlink()
    else:
        public.write_text(damage)

    assert names(init(path)) == ["topology.public.toml"]
    assert public.read_text() == before


def test_a_wrong_topology_is_refused_before_any_key_is_made(path: Path) -> None:
    path.write_text(template().replace('203.0.113.1"', '"').replace("alice@example.org", "alice@exmaple.org"))

    with pytest.raises(WrongInputError):
        init(path)

    assert list(contents(path.parent)) == ["topology.toml"]


def test_secrets_open_to_others_stop_it_before_anything_changes(path: Path) -> None:
    init(path)
    path.with_suffix(".secrets.toml").chmod(0o644)
    path.write_text(path.read_text() + '\n[[mail.mailboxes]]\naddress = "carol@example.org"\n')
    before = contents(path.parent)

    with pytest.raises(ImagebuilderError, match="mode 0644"):
        init(path)

    assert contents(path.parent) == before


def test_two_at_a_time_do_not_make_two_sets_of_keys(path: Path) -> None:
    path.write_text(template())
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ImagebuilderError, match="another init"):
            init(path)

    assert list(contents(path.parent)) == ["topology.toml"]


@pytest.mark.parametrize("place", ["missing/topology.toml", ".", "a\0b"])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, place: str) -> None:
    with pytest.raises(ImagebuilderError):
        init(tmp_path / place)


def test_the_template_with_only_its_marked_lines_changed_is_accepted(path: Path) -> None:
    marked = "# <- yours"
    own = {"example.org": "firma.test", "203.0.113": "198.51.100", "alice": "jo"}
    lines = []
    for line in template().splitlines():
        for old, new in own.items() if marked in line and not line.startswith("#") else ():
            line = line.replace(old, new)
        lines.append(line)
    path.write_text("\n".join(lines))

    topology = load_topology(path)

    assert "example.org" not in topology.model_dump_json()
    assert "203.0.113" not in topology.model_dump_json()


def test_every_commented_key_of_the_template_can_be_switched_on(path: Path) -> None:
    uncommented = []
    for line in template().splitlines():
        bare = line.removeprefix("# ")
        is_key = bare != line and (" = " in bare or bare.startswith(("[[", "require", "if header", "'''")))
        is_prose = bare.rstrip().endswith((".", ",")) or "`" in bare
        uncommented.append(bare if is_key and not is_prose else line)
    text = (
        "\n".join(uncommented)
        .replace("ca_root", "# ca_root")
        .replace('["a.liddell@example.org"]', '["a.l@example.org"]')
    )
    path.write_text(text)

    topology = load_topology(path)

    assert topology.mail.aliases
    assert topology.mail.mailboxes[0].sieve
    assert topology.client.ipv4
    assert topology.proxy.ipv6
