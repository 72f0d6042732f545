import hashlib
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.plan import Derivation
from imagebuilder.run import ProcessError
from imagebuilder.run import run as run_program
from imagebuilder.store.folder import Store
from imagebuilder.store.hashing import sha256_of

STEP = Derivation("thing", {"a": 1})


def test_a_file_is_kept_under_its_hash(tmp_path: Path) -> None:
    store, source = Store(tmp_path / "store"), tmp_path / "x"
    source.write_text("hello")
    digest = sha256_of(source)

    kept = store.add_file(source, digest)

    assert kept.read_text() == "hello"
    assert store.has_file(digest)


def test_a_corrupt_file_is_refused_and_not_kept(tmp_path: Path) -> None:
    store, source = Store(tmp_path / "store"), tmp_path / "x"
    source.write_text("hellp")

    with pytest.raises(ImagebuilderError, match="expected 00000000"):
        store.add_file(source, "0" * 64)

    assert not store.has_file("0" * 64)


def test_the_hash_of_a_file_with_holes_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    for pieces in ([], [(0, b"a")], [(5 * 2**20 + 3, b"bc")], [(0, b"x" * 5000), (9 * 2**20, b"y"), (2**24, b"z")]):
        with path.open("wb") as file:
            for offset, content in pieces:
                file.seek(offset)
                file.write(content)
            file.truncate(file.tell() + 3 * 2**20 + 1)
        assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_output_is_made_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path), []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "x").write_text("1")

    first, second = store.output(STEP, make), store.output(STEP, make)

    assert first == second
    assert (first / "x").read_text() == "1"
    assert len(made) == 1


def test_a_failed_output_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def make(folder: Path) -> None:
        (folder / "half").write_text("")
        raise ImagebuilderError("no")

    with pytest.raises(ImagebuilderError):
        store.output(STEP, make)

    assert not store.has(STEP)
    assert list((tmp_path / "tmp").iterdir()) == []


def _append(root: Path, log: Path) -> None:
    def make(folder: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.3)
        (folder / "x").touch()

    Store(root).output(STEP, make)


def test_runs_at_the_same_time_make_an_output_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    runs = [spawn.Process(target=_append, args=(tmp_path / "store", tmp_path / "log")) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)

    assert [run.exitcode for run in runs] == [0] * 4
    assert (tmp_path / "log").read_text() == "made\n"


def _hang(root: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").touch()
        time.sleep(60)

    Store(root).output(STEP, make)


def test_a_killed_run_leaves_a_store_that_the_next_run_cleans_and_uses(tmp_path: Path) -> None:
    run = multiprocessing.get_context("spawn").Process(target=_hang, args=(tmp_path,))
    run.start()
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("tmp/*/output/half")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run.pid
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    store = Store(tmp_path)
    assert not store.has(STEP)

    folder = store.output(STEP, lambda folder: (folder / "whole").touch())

    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_workspaces_made_at_the_same_time_leave_each_other_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def use(number: int) -> None:
        with store.workspace() as folder:
            (folder / "mine").write_text(str(number))
            time.sleep(0.002)
            assert (folder / "mine").read_text() == str(number)

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(use, range(300)))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file stands here")
    store = Store(tmp_path / "store")

    with pytest.raises(ImagebuilderError, match="cannot be written"):
        store.output(STEP, lambda folder: None)


@pytest.mark.parametrize("said", ["cp: error writing 'x': No space left on device", "dd: Disk quota exceeded"])
def test_a_program_that_finds_the_disk_full_is_reported_as_that(tmp_path: Path, said: str) -> None:
    def make(folder: Path) -> None:
        run_program(["sh", "-c", 'echo "$1" >&2; exit 1', "sh", said])

    with pytest.raises(ImagebuilderError, match=r"^the store \S+ cannot be written: \w.*") as caught:
        Store(tmp_path).output(STEP, make)

    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert not Store(tmp_path).has(STEP)


def test_a_program_that_fails_otherwise_keeps_its_own_words(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        run_program(["sh", "-c", "echo no such luck >&2; exit 1"])

    with pytest.raises(ProcessError, match="no such luck"):
        Store(tmp_path).output(STEP, make)
