import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from imagebuilder.cli import main
from imagebuilder.commands.gc import needed
from imagebuilder.generations import RECORD, Generations
from imagebuilder.plan import Derivation
from imagebuilder.store.folder import Store, Used
from imagebuilder.store.upkeep import collect, discard, inspect, size_of
from imagebuilder.topology import Role
from tests.unit.test_generations import planned, record

A, B = Derivation("a", {}), Derivation("b", {})


def make(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/x").write_text("1")
    (folder / "sub").chmod(0o555)


def add(store: Store, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    with store.workspace() as workspace:
        (workspace / "x").write_bytes(content)
        store.add_file(workspace / "x", digest)
    return digest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    store = Store(tmp_path / "store")
    for step in (A, B):
        store.output(step, make)
    return store


def test_what_is_needed_stays_and_the_rest_goes(store: Store) -> None:
    kept, lost = add(store, b"kept"), add(store, b"lost")

    items = collect(store, lambda: Used(frozenset({str(A)}), frozenset({kept})))

    assert {item.name for item in items} == {str(B), lost}
    assert (store.has(A), store.has(B), store.has_file(kept), store.has_file(lost)) == (True, False, True, False)
    assert [path.name for path in (store.root / "manifests").iterdir()] == [str(A)]
    assert list((store.root / "tmp").iterdir()) == []


def test_a_dry_run_removes_nothing(store: Store) -> None:
    before = size_of(store.root)

    assert len(collect(store, Used, dry_run=True)) == 2
    assert store.has(A)
    assert size_of(store.root) == before


USE = """
import sys
from pathlib import Path
from imagebuilder.store.folder import Store, Used
Store(Path(sys.argv[1])).use(Used(frozenset([sys.argv[2]])))
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_a_running_process_uses_stays_until_it_ends(store: Store) -> None:
    command = [sys.executable, "-c", USE, str(store.root), str(A)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout
        assert user.stdout.readline() == b"ready\n"
        assert [item.name for item in collect(store, Used)] == [str(B)]
        user.kill()
        user.wait()

    assert [item.name for item in collect(store, Used)] == [str(A)]
    assert list((store.root / "used").iterdir()) == []


def test_a_sound_store_has_no_damage(store: Store) -> None:
    add(store, b"sound")

    found = inspect(store)

    assert (found.files, found.outputs, found.damaged, found.unrecorded) == (1, 2, (), ())


def test_damage_is_named_and_can_be_removed(store: Store) -> None:
    digest = add(store, b"sound")
    store.file(digest).chmod(0o644)
    store.file(digest).write_bytes(b"other")
    (store.path(A) / "sub/x").write_text("2")
    store.manifest(B).unlink()

    found = inspect(store)
    discard(store, found.damaged)

    assert [damage.path.name for damage in found.damaged] == [digest, str(A)]
    assert "sub/x changed since it was made" in str(found.damaged[1])
    assert found.unrecorded == (str(B),)
    assert (store.has_file(digest), store.has(A), store.has(B)) == (False, False, True)


def test_a_damaged_store_fails_and_says_how_to_mend_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "verify"]) == 0
    (store.path(A) / "sub/x").write_text("2")

    assert main(["store", "verify"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{store.path(A)}: sub/x changed")
    assert "imagebuilder store verify --remove" in err
    assert main(["store", "verify", "--json", "--remove"]) == 0
    assert json.loads(capsys.readouterr().out)["damaged"][0]["path"] == str(store.path(A))
    assert main(["store", "verify"]) == 0


def test_a_damaged_generation_fails_the_check_and_stops_a_collection(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generation = record(Generations(store, tmp_path / "topology.toml"), planned())
    assert main(["store", "verify"]) == 0
    (generation.folder / "proxy.tar").write_bytes(b"no archive")
    generation.topology.with_suffix(".lock").unlink()
    capsys.readouterr()

    assert main(["store", "verify", "--json", "--remove"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["damaged"], [each["reason"] for each in told["generations"]]) == (
        [],
        [
            "generation 1 is damaged: inputs/topology.lock is missing",
            "generation 1 is damaged: proxy.tar has changed",
        ],
    )
    assert main(["gc"]) == 1
    assert "error: generation 1 is damaged: inputs/topology.lock is missing" in capsys.readouterr().err
    (generation.folder / RECORD).unlink()
    assert main(["store", "verify"]) == 1
    assert "is no record of a generation" in capsys.readouterr().out
    assert store.has(A)


def test_a_store_without_generations_is_not_emptied_unless_told(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gc"]) == 1
    assert "imagebuilder gc --keep 0" in capsys.readouterr().err
    assert store.has(A)

    assert main(["gc", "--keep", "0", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 2
    assert not store.has(A)


def test_generations_keep_their_outputs_and_the_locked_files_to_make_them_again(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = planned(), planned(1300)
    for plan in (old, new):
        record(Generations(store, tmp_path / "topology.toml"), plan)
        for step in plan.steps:
            store.output(step, lambda folder: None)
    locked = [package.sha256 for package in old.lock.packages]

    assert needed(store, keep=None).files == frozenset(locked)
    assert main(["gc", "--json"]) == 0
    assert {item["name"] for item in json.loads(capsys.readouterr().out)["items"]} == {str(A), str(B)}
    assert main(["gc", "--keep", "1"]) == 0
    assert all(store.has(step) for step in new.steps)
    assert {step.name for step in old.steps if not store.has(step)} == {
        f"{role}-{step}" for role in Role for step in ("difference", "image")
    }
