"""What the bed does to this machine: nothing that outlives it."""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.vm.cables import TUN
from imagebuilder.vm.namespace import entered, inside, new_network
from imagebuilder.vm.world import World

pytestmark = pytest.mark.vm


def processes_of(user_namespace: int) -> list[int]:
    """Return the processes that live in *user_namespace*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if (entry / "ns/user").stat().st_ino == user_namespace:
                    found.append(int(entry.name))
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue
    return found


def mounts_and_links() -> tuple[set[str], set[str]]:
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return mounts, {name for _, name in socket.if_nameindex()}


def run_apart(work: Callable[[int], None]) -> tuple[int, int]:
    """Run *work* in a process of its own, with the end of a pipe; return its id and the other end."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        status = 1
        try:
            work(theirs)
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    return child, ours


def as_nobody(ask: Callable[[], str]) -> str:
    """Return what *ask* returns in a process of its own that is nobody's and may not open the machine's devices."""
    if os.geteuid() != 0 or TUN.stat().st_mode & 0o006:
        pytest.skip(f"everybody may open {TUN} here, or we can't become somebody who may not")

    def work(pipe: int) -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: a process that changed its user is not, and can't be mapped
        os.write(pipe, ask().encode())

    child, pipe = run_apart(work)
    status = os.waitpid(child, 0)[1]
    assert status == 0
    return os.read(pipe, 4096).decode()


def test_what_work_returns_or_raises_comes_back() -> None:
    def refuse() -> None:
        raise ImagebuilderError("no such thing", hint="try another")

    assert inside(lambda: {"answer": 42}) == {"answer": 42}
    with pytest.raises(ImagebuilderError, match="no such thing") as caught:
        inside(refuse)
    assert caught.value.hint == "try another"


def test_the_network_inside_is_empty_and_the_hosts_stays_as_it_is() -> None:
    before = mounts_and_links()

    assert inside(lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]
    assert mounts_and_links() == before


def test_each_thread_can_be_on_another_host() -> None:
    def work() -> list[str]:
        new_network("one")
        new_network("two")
        seen: list[str] = []

        def look(name: str) -> None:
            with entered(name):
                seen.append(str(Path("/proc/thread-self/ns/net").readlink()))

        threads = [threading.Thread(target=look, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [*seen, str(Path("/proc/thread-self/ns/net").readlink())]

    assert len(set(inside(work))) == 3


def test_after_a_kill_no_process_mount_or_link_is_left(new_world: Callable[[], World]) -> None:
    before = mounts_and_links()

    def work(pipe: int) -> None:
        def stay() -> None:
            with new_world():
                os.write(pipe, str(Path("/proc/self/ns/user").stat().st_ino).encode())
                time.sleep(600)

        inside(stay)

    child, pipe = run_apart(work)
    user_namespace = int(os.read(pipe, 32))
    assert len(processes_of(user_namespace)) > 3  # the world's name server and DHCP server among them

    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    deadline = time.monotonic() + 10
    while processes_of(user_namespace) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(user_namespace) == []
    assert mounts_and_links() == before


def test_an_interrupt_ends_the_work_in_good_order() -> None:
    def work(pipe: int) -> None:
        def stay() -> None:
            try:
                os.write(pipe, b"here")
                time.sleep(600)
            except KeyboardInterrupt:
                os.write(pipe, b"tidied")
                raise

        try:
            inside(stay)
        except KeyboardInterrupt:
            os.write(pipe, b"stopped")

    child, pipe = run_apart(work)
    assert os.read(pipe, 4) == b"here"

    os.kill(child, signal.SIGINT)

    assert os.waitpid(child, 0)[1] == 0
    assert os.read(pipe, 64) == b"tidiedstopped"


def test_two_worlds_at_once_do_not_meet(new_world: Callable[[], World]) -> None:
    def work(pipe: int) -> None:
        def stay() -> str:
            with new_world() as world, world.stranger.listen(25) as listener:
                listener.settimeout(20)
                os.write(pipe, b"up")
                with world.lan.connect("mx.stranger.example", 25):
                    _, (address, *_) = listener.accept()
                time.sleep(1)
                return str(address)

        os.write(pipe, inside(stay).encode())

    apart = [run_apart(work) for _ in range(2)]
    for child, pipe in apart:
        assert os.waitpid(child, 0)[1] == 0
        assert os.read(pipe, 128).startswith(b"up::ffff:198.19.")


def test_programs_on_a_host_see_its_network_and_our_files(new_world: Callable[[], World], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("seen")

    def work() -> tuple[bytes, int]:
        with new_world() as world:
            script = f"cat {tmp_path}/file; getent ahostsv4 mail.example.org | head -1"
            done: subprocess.CompletedProcess[bytes] = world.user.run(["bash", "-c", script])
            return done.stdout, world.user.call(["bash", "-c", "exit 7"])

    output, status = inside(work)
    assert output.startswith(b"seen198.18.0.10")
    assert status == 7
