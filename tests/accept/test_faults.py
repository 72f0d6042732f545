"""A build that is stopped, killed or finds the disk full while mkosi installs packages: nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.pipeline import build as build_all
from imagebuilder.plan import Plan
from imagebuilder.store.folder import Store

pytestmark = pytest.mark.accept

PATIENCE_S = 300
"""For mkosi to begin with the packages, beside whatever else runs."""


@pytest.fixture
def store(plan: Plan, tmp_path: Path) -> Store:
    """Give a store that lacks the images: what was fetched and the tools are those of the store at hand."""
    # Short, as there is a limit to the length of a path.
    store, shared = Store(tmp_path / "s"), the_store()
    steps = plan.tools, plan.npm_cache, plan.node_modules
    if not all(shared.has(step) for step in steps):
        build_all(shared, plan, sources_of_environment())
    (store.root / "outputs").mkdir(parents=True)
    (store.root / "files").symlink_to(shared.root / "files")
    for step in steps:
        store.path(step).symlink_to(shared.path(step))
    return store


@pytest.fixture
def build(store: Store, pytestconfig: pytest.Config) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Give what begins a build in *store*, in a process group of its own as a shell does it."""
    begun = []

    def begin() -> "subprocess.Popen[bytes]":
        argv = [sys.executable, "-m", "imagebuilder", "build", "--topology", str(pytestconfig.getoption("--topology"))]
        environment = os.environ | {"IMAGEBUILDER_STORE": str(store.root)}
        begun.append(subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, start_new_session=True))
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for_packages(store: Store, process: "subprocess.Popen[bytes]") -> None:
    """Return when mkosi has unpacked some packages."""
    deadline = time.monotonic() + PATIENCE_S
    while not unpacked(store):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "mkosi has not begun to unpack packages"
        time.sleep(0.2)


def unpacked(store: Store) -> bool:
    """Say whether there are packages in the trees of mkosi, which are in memory that only its own namespace sees."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(store.root) in (folder / "cmdline").read_text(errors="replace"):
                inside = Path(f"{folder}/root{store.root}")
                if any(inside.glob("tmp/*/work/*/root/usr/bin/*")):
                    return True
        except OSError:  # it has just ended, or is none of our business
            continue
    return False


def strays(store: Store) -> list[str]:
    """Return what runs, or is mounted anywhere, that has to do with *store*."""
    found, own, name = [], str(os.getpid()), str(store.root)
    for folder in Path("/proc").glob("[0-9]*"):
        for fact in ("cmdline", "mountinfo"):
            try:
                if folder.name != own and name in (folder / fact).read_text(errors="replace"):
                    found.append(f"{folder.name} {fact}")
            except OSError:  # it has just ended, or is none of our business
                continue
    return found


def nothing_stays(store: Store) -> None:
    """Fail unless all that ran for *store* is gone shortly."""
    deadline = time.monotonic() + 15
    while left := strays(store):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def outputs(store: Store) -> list[str]:
    """Return the names of what was built, but for what was there from the start."""
    return [path.name for path in (store.root / "outputs").iterdir() if not path.is_symlink()]


def test_ctrl_c_ends_a_build_at_once_and_leaves_nothing(
    store: Store, build: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    process = build()
    wait_for_packages(store, process)

    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130, said.decode()
    assert said.decode().splitlines()[-1] == "stopped"
    assert b"Traceback" not in said
    assert time.monotonic() - began < 30
    nothing_stays(store)
    assert not list(store.root.glob("tmp/*"))
    assert not outputs(store)


def test_a_build_that_was_killed_takes_mkosi_with_it_and_the_next_one_goes_on(
    store: Store, build: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    first = build()
    wait_for_packages(store, first)
    first.kill()
    first.communicate()

    nothing_stays(store)
    abandoned = set(store.root.glob("tmp/*"))
    assert abandoned
    assert not outputs(store)

    second = build()
    deadline = time.monotonic() + PATIENCE_S
    while abandoned & set(store.root.glob("tmp/*")):
        assert second.poll() is None, second.communicate()
        assert time.monotonic() < deadline, "what was abandoned is still there"
        time.sleep(0.2)
    wait_for_packages(store, second)
    os.killpg(second.pid, signal.SIGTERM)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 130, said.decode()
    nothing_stays(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_is_full_is_told_in_one_sentence(store: Store, pytestconfig: pytest.Config) -> None:
    script = (
        'set -eu; mkdir "$1/small"; mount -t tmpfs -o size=160m tmpfs "$1/small"; '
        'cp -a "$1/files" "$1/outputs" "$1/small"; '
        'export IMAGEBUILDER_STORE="$1/small"; shift; "$@" || status=$?; '
        'ls "$IMAGEBUILDER_STORE/tmp" >&2; find "$IMAGEBUILDER_STORE/outputs" -mindepth 1 -type d >&2; exit $status'
    )
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(store.root)]
    argv += [sys.executable, "-m", "imagebuilder", "build", "--topology", str(pytestconfig.getoption("--topology"))]

    done = subprocess.run(argv, stderr=subprocess.PIPE, check=False, timeout=600)

    said = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert said[-2:] == [
        f"error: the store {store.root}/small cannot be written: No space left on device",
        "hint: make room, or name another folder by IMAGEBUILDER_STORE",
    ]
    nothing_stays(store)
