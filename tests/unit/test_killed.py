"""Runs that are killed at random moments: whatever they were doing, the store stays sound and the next run finishes."""

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.fetch import Sources, fetch
from imagebuilder.lock.model import LockedPackage
from imagebuilder.plan import Derivation
from imagebuilder.statements.signing import SigningKey
from imagebuilder.store.folder import Store, Used
from imagebuilder.store.sharing import offer, offer_files, take
from imagebuilder.store.substituter import Substituter
from imagebuilder.store.upkeep import collect, inspect
from tests.unit.test_fetch import package

KILLS = 14
"""Of each kind of run, one of them to measure; there are four."""

STEPS = tuple(Derivation(f"thing-{number}", {"number": number}) for number in range(4))
CONTENTS = tuple(hashlib.sha256(bytes([number])).digest() * 20_000 for number in range(8))
PACKAGES: tuple[LockedPackage, ...] = tuple(package(f"p{number}", c) for number, c in enumerate(CONTENTS))
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"k" * 32))


def fill(folder: Path) -> None:
    for number, content in enumerate(CONTENTS):
        (folder / f"{number}").write_bytes(content[: 20_000 + number])


def build(folder: Path) -> None:
    store = Store(folder / "store")
    store.use(Used(frozenset(map(str, STEPS))))
    for step in STEPS:
        store.output(step, fill)


def bring(folder: Path) -> None:
    fetch(Store(folder / "store"), PACKAGES, Sources(dict, (Substituter(str(folder / "mirror")),)))


def push(folder: Path) -> None:
    store, shared = Store(folder / "store"), Substituter(str(folder / "shared"))
    offer(store, STEPS, shared, KEY)
    offer_files(store, PACKAGES, shared)


def clean(folder: Path) -> None:
    collect(Store(folder / "store"), lambda: Used(frozenset(map(str, STEPS[:2]))))


@pytest.fixture(scope="module")
def processes() -> Iterator[multiprocessing.context.ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    yield context


def killed(
    context: multiprocessing.context.ForkServerContext, run: Callable[[Path], None], folder: Path, after_s: float
) -> bool:
    """Run *run* and kill it after a while; say whether it was still running."""
    process = context.Process(target=run, args=(folder,))
    process.start()
    process.join(after_s)
    assert process.pid
    if alive := process.exitcode is None:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended, and the server of forks has yet to say so
            alive = False
    process.join()
    return alive


def undo(folder: Path, chance: random.Random) -> None:
    """Take away some of what runs have made, so that there is something to do."""
    files = [each.sha256 for each in PACKAGES]
    kept = Used(frozenset(map(str, chance.sample(STEPS, 2))), frozenset(chance.sample(files, 4)))
    collect(Store(folder / "store"), lambda: kept)
    shared = [path for path in sorted((folder / "shared").rglob("*")) if path.is_file()]
    for path in chance.sample(shared, len(shared) // 2):
        path.unlink()


def assert_sound(store: Store) -> None:
    found = inspect(store)
    assert found.damaged == ()
    assert found.unrecorded == ()


@pytest.mark.parametrize("run", [build, bring, push, clean])
def test_a_store_stays_sound_whenever_a_run_is_killed(
    run: Callable[[Path], None], processes: multiprocessing.context.ForkServerContext, tmp_path: Path
) -> None:
    store, chance = Store(tmp_path / "store"), random.Random(run.__name__)
    (tmp_path / "mirror").mkdir()
    for number, content in enumerate(CONTENTS):
        (tmp_path / f"mirror/{number}").write_bytes(content)
    prepare = (build, bring) if run is push else (build,) if run is clean else ()
    interrupted, whole_s = 0, 60.0
    for turn in range(KILLS):
        undo(tmp_path, chance)
        for other in prepare:
            killed(processes, other, tmp_path, 60)
        begun = time.monotonic()
        # The first is left alone, to see how long it takes.
        alive = killed(processes, run, tmp_path, chance.uniform(0, whole_s) if turn else 60)
        whole_s = whole_s if alive else min(whole_s, time.monotonic() - begun)
        interrupted += alive
        assert_sound(store)

    assert interrupted > KILLS // 3
    for last in (*prepare, run):
        killed(processes, last, tmp_path, 60)
    assert_sound(store)
    if run is bring:
        assert all(store.has_file(each.sha256) for each in PACKAGES)
    elif run is push:
        theirs, shared = Store(tmp_path / "theirs"), Substituter(str(tmp_path / "shared"))
        assert all(take(theirs, step, [shared], [KEY.public]) for step in STEPS)
        fetch(theirs, PACKAGES, Sources(dict, (shared,)))
        assert_sound(theirs)
    else:
        assert [store.has(step) for step in STEPS] == ([True] * 4 if run is build else [True, True, False, False])
    with store.workspace():  # which clears what the killed have left
        assert len(list((store.root / "tmp").iterdir())) == 1


def dying_at(line: int, run: Callable[[Path], None], folder: Path) -> None:
    """Run *run*, and die without another word at the *line*-th line of ours that is executed."""
    left = line

    def watch(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal left
        if "imagebuilder" not in frame.f_code.co_filename:
            return None
        left -= event == "line"
        if left < 0:
            os._exit(9)
        return watch

    sys.settrace(watch)  # type: ignore[arg-type]
    run(folder)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.integers(0, 1500), run=st.sampled_from([build, bring, clean]))
def test_a_store_stays_sound_at_whichever_line_a_run_dies(
    line: int,
    run: Callable[[Path], None],
    processes: multiprocessing.context.ForkServerContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "mirror").mkdir()
    for number, content in enumerate(CONTENTS):
        (folder / f"mirror/{number}").write_bytes(content)
    if run is clean:
        killed(processes, build, folder, 60)
    process = processes.Process(target=dying_at, args=(line, run, folder))
    process.start()
    process.join(60)

    assert process.exitcode in (0, 9)
    assert_sound(Store(folder / "store"))
    assert not killed(processes, run, folder, 60)
    assert_sound(Store(folder / "store"))
    shutil.rmtree(folder)
