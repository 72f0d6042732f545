"""Booted pairs are kept whole or not at all, found by all that determines them, and do not pile up."""

import os
import stat
import time
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.secrets.keys import new_secrets, public_keys
from imagebuilder.topology import Role, load_topology
from imagebuilder.vm.disks import move_sparsely
from imagebuilder.vm.identity import Identity, bed_credentials, identity_of
from imagebuilder.vm.pair import BootTimes
from imagebuilder.vm.snapshots import FACTS, KEPT_MOST, OLD_S, Saved, Snapshots

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"
PARTS = {"image of the proxy": "1", "image of the client": "2"}


def kept(root: Path, parts: dict[str, str]) -> Saved:
    """Keep a pair with *parts*, as one run does."""
    snapshots = Snapshots(root)
    with snapshots.draft() as draft:
        (draft / "proxy.ram").write_bytes(b"memory")
        saved = snapshots.keep(draft, parts, {})
    snapshots.close()
    return saved


def test_a_kept_pair_is_found_by_what_determines_it_and_by_nothing_else(tmp_path: Path) -> None:
    saved = kept(tmp_path, PARTS)
    snapshots = Snapshots(tmp_path)

    assert snapshots.find(PARTS) == saved
    assert saved.memory(Role.PROXY).ram.read_bytes() == b"memory"
    assert snapshots.find(PARTS | {"image of the client": "3"}) is None
    assert snapshots.difference(PARTS | {"image of the client": "3"}) == "image of the client"


def test_only_the_owner_can_read_what_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "pairs"
    saved = kept(root, PARTS)

    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE(saved.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved.folder.iterdir()} == {0o600}


def test_a_draft_that_was_not_kept_leaves_nothing(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)

    with pytest.raises(KeyboardInterrupt), snapshots.draft() as draft:
        (draft / "proxy.ram").write_bytes(b"half")
        raise KeyboardInterrupt

    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with Snapshots(tmp_path).draft() as draft:
            (draft / "proxy.ram").write_bytes(b"half")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert list(tmp_path.glob(".new.*"))

    assert Snapshots(tmp_path).find(PARTS) is None
    assert not list(tmp_path.glob(".*"))


def test_a_draft_of_a_run_beside_it_stays(tmp_path: Path) -> None:
    with Snapshots(tmp_path).draft() as draft:
        Snapshots(tmp_path).find(PARTS)
        assert draft.is_dir()


def test_of_two_runs_that_keep_the_same_pair_both_go_on_from_one(tmp_path: Path) -> None:
    one, two = Snapshots(tmp_path), Snapshots(tmp_path)
    with one.draft() as first, two.draft() as second:
        for draft, content in ((first, b"first"), (second, b"second")):
            (draft / "proxy.ram").write_bytes(content)
        assert one.keep(first, PARTS, {}) == two.keep(second, PARTS, {})

    assert (
        Saved(next(path for path in tmp_path.iterdir() if path.is_dir())).memory(Role.PROXY).ram.read_bytes()
        == b"first"
    )


def test_who_wants_to_boot_a_pair_waits_until_another_has_booted(tmp_path: Path) -> None:
    said, telling = os.pipe()
    child = os.fork()
    if child == 0:
        with Snapshots(tmp_path).booting():
            os.write(telling, b"booting")
            time.sleep(0.5)
            kept(tmp_path, PARTS)
            os._exit(0)
    os.read(said, 16)

    assert Snapshots(tmp_path).find(PARTS) is None
    with Snapshots(tmp_path).booting():
        assert Snapshots(tmp_path).find(PARTS) is not None
    os.waitpid(child, 0)


def test_the_longest_unused_pairs_go_when_there_are_many(tmp_path: Path) -> None:
    saved = [kept(tmp_path, {"image": str(number)}) for number in range(KEPT_MOST)]
    for number, one in enumerate(saved):
        os.utime(one.folder, (number, number))

    kept(tmp_path, {"image": "another"})

    assert [one.folder.is_dir() for one in saved] == [False] + [True] * (KEPT_MOST - 1)


def test_a_pair_in_use_stays_however_many_there_are(tmp_path: Path) -> None:
    saved = kept(tmp_path, PARTS)
    using = Snapshots(tmp_path)
    assert using.find(PARTS)
    os.utime(saved.folder, (0, 0))

    for number in range(KEPT_MOST + 1):
        kept(tmp_path, {"image": str(number)})
    assert saved.folder.is_dir()

    using.close()
    Snapshots(tmp_path).find({})
    assert not saved.folder.is_dir()


def test_a_pair_whose_certificates_may_have_ended_is_not_used(tmp_path: Path) -> None:
    saved = kept(tmp_path, PARTS)
    long_ago = time.time() - OLD_S - 1
    os.utime(saved.folder / FACTS, (long_ago, long_ago))

    assert Snapshots(tmp_path).find(PARTS) is None


def test_a_pair_that_does_not_work_is_dropped(tmp_path: Path) -> None:
    kept(tmp_path, PARTS)
    snapshots = Snapshots(tmp_path)
    saved = snapshots.find(PARTS)
    assert saved is not None

    snapshots.drop(saved)

    assert Snapshots(tmp_path).find(PARTS) is None


def test_boot_times_come_back_as_they_were_kept() -> None:
    times = BootTimes({Role.PROXY: 1.0, Role.CLIENT: 2.0}, {Role.PROXY: 3.0, Role.CLIENT: 4.0}, 5.0)

    assert BootTimes.from_facts(times.facts()) == times


def test_what_is_made_once_is_not_made_again(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity")
    made: list[Path] = []

    folders = [identity.once("thing", made.append) for _ in range(2)]

    assert len(made) == 1
    assert folders[0] == folders[1]
    assert identity.digest == Identity(identity.folder).digest
    assert identity.digest != Identity(tmp_path / "other").digest


def test_the_bed_has_keys_and_passwords_of_its_own_but_for_the_tunnels(tmp_path: Path) -> None:
    topology = load_topology(REFERENCE)
    secrets = new_secrets(topology)

    def own() -> tuple[object, object, object]:
        credentials = bed_credentials(identity_of(tmp_path, topology, secrets), topology, secrets, public_keys(secrets))
        assert credentials.secrets.wireguard == secrets.wireguard
        assert credentials.public.wireguard == public_keys(secrets).wireguard
        assert not set(credentials.secrets.ssh.values()) & set(secrets.ssh.values())
        assert not set(credentials.secrets.dkim.values()) & set(secrets.dkim.values())
        guests = {guest.address for guest in credentials.guests}
        assert set(credentials.passwords) == {box.address for box in topology.mail.mailboxes} | guests
        named = credentials.files(topology, Role.CLIENT)["mailboxes.guests"].decode().splitlines()
        assert {line.partition(":")[0] for line in named} == guests
        assert "mailboxes.guests" not in credentials.files(topology, Role.PROXY)
        return credentials.secrets, credentials.public, credentials.passwords

    assert own() == own()


def test_keys_that_do_not_belong_together_are_refused_before_anything_boots(tmp_path: Path) -> None:
    topology = load_topology(REFERENCE)
    secrets, others = new_secrets(topology), new_secrets(topology)

    with pytest.raises(ImagebuilderError, match="don't belong together"):
        bed_credentials(identity_of(tmp_path, topology, secrets), topology, secrets, public_keys(others))


def test_a_memory_is_laid_down_without_its_zeros(tmp_path: Path) -> None:
    source, target = tmp_path / "ram", tmp_path / "kept"
    content = bytearray(8 * 2**20)
    content[5 * 2**20 + 17] = 1
    content[-1] = 2
    source.write_bytes(content)

    move_sparsely(source, target)

    assert target.read_bytes() == content
    assert target.stat().st_blocks * 512 <= 2 * 65536
    assert not source.exists()
