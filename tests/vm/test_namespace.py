"""What the bed does to this machine: nothing that outlives it."""

import ctypes
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.topology import Role
from imagebuilder.vm.cables import TUN
from imagebuilder.vm.chassis import Chassis
from imagebuilder.vm.namespace import die_with_parent, entered, inside, new_network
from imagebuilder.vm.qemu import Acceleration, Firmware, Hardware, Nic, mac_address
from imagebuilder.vm.waiting import Seen, wait_for
from imagebuilder.vm.world import CABLE_ENDS, FOLDER, World

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
        die_with_parent()
        os.close(ours)
        status = 1
        try:
            work(theirs)
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    return child, ours


def told(pipe: int, octets: int = 4096, *, within_s: float = 60) -> bytes:
    """Return what there is to be read from *pipe*, as soon as there is something."""
    assert select.select([pipe], [], [], within_s)[0], f"nothing was said within {within_s} s"
    return os.read(pipe, octets)


def status_of(child: int, *, within_s: float = 60) -> int:
    """Return the status that *child* ends with."""
    ended = [0, 0]

    def look() -> Seen:
        ended[:] = os.waitpid(child, os.WNOHANG)
        return Seen(ended[0] == child, "it runs")

    wait_for(f"the end of process {child}", look, within_s=within_s, every_s=0.02)
    return ended[1]


def gone(user_namespace: int) -> None:
    """Return when no process lives in *user_namespace*."""
    wait_for(
        "the end of the namespace",
        lambda: Seen(not (left := processes_of(user_namespace)), f"{left}"),
        within_s=10,
        every_s=0.05,
    )


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
    assert status_of(child) == 0
    return told(pipe).decode()


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
            thread.join(30)
        return [*seen, str(Path("/proc/thread-self/ns/net").readlink())]

    assert len(set(inside(work))) == 3


def test_after_a_kill_no_process_mount_or_link_is_left(new_world: Callable[[], World]) -> None:
    before = mounts_and_links()

    def work(pipe: int) -> None:
        def stay() -> None:
            with new_world() as world, running_machine(world):
                os.write(pipe, str(Path("/proc/self/ns/user").stat().st_ino).encode())
                time.sleep(600)

        inside(stay)

    child, pipe = run_apart(work)
    user_namespace = int(told(pipe))
    names = {Path(f"/proc/{process}/comm").read_text().strip() for process in processes_of(user_namespace)}
    assert {"knotd", "pebble", "dnsmasq", "qemu-system-x86"} <= names

    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    gone(user_namespace)
    assert mounts_and_links() == before


@contextmanager
def running_machine(world: World) -> Iterator[Chassis]:
    """Yield a machine that is on and connected, and does nothing."""
    folder = FOLDER / "idle"
    folder.mkdir()
    nics = (Nic(CABLE_ENDS[Role.PROXY], mac_address(Role.PROXY), world.cable),)
    hardware = Hardware("idle", folder, 64, Acceleration.TCG, firmware=Firmware.BIOS, nics=nics)
    machine = Chassis(hardware, world.tools, reports=folder, network=world.network_of(Role.PROXY))
    machine.start()
    try:
        yield machine
    finally:
        machine.kill()


def test_a_wait_that_is_broken_off_ends_what_it_waited_for() -> None:
    def work(pipe: int) -> None:
        def stay() -> None:
            os.write(pipe, str(Path("/proc/self/ns/user").stat().st_ino).encode())
            time.sleep(600)

        def time_is_up(_number: int, _frame: object) -> None:
            raise TimeoutError

        signal.signal(signal.SIGALRM, time_is_up)
        signal.setitimer(signal.ITIMER_REAL, 3)
        with pytest.raises(TimeoutError):
            inside(stay)
        os.write(pipe, b"broken off")

    child, pipe = run_apart(work)
    user_namespace = int(told(pipe))

    assert told(pipe) == b"broken off"
    gone(user_namespace)
    assert status_of(child) == 0


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
    assert told(pipe, 4) == b"here"

    os.kill(child, signal.SIGINT)

    assert status_of(child) == 0
    assert told(pipe) == b"tidiedstopped"


def test_two_worlds_at_once_do_not_meet(new_world: Callable[[], World]) -> None:
    def work(pipe: int) -> None:
        def stay() -> str:
            with new_world() as world, world.stranger.listen(25) as listener:
                listener.settimeout(20)
                os.write(pipe, b"up")
                with world.lan.connect(str(world.stranger.ipv4), 25):
                    _, (address, *_) = listener.accept()
                time.sleep(1)
                return str(address)

        os.write(pipe, inside(stay).encode())

    apart = [run_apart(work) for _ in range(2)]
    for child, pipe in apart:
        assert status_of(child) == 0
        assert told(pipe).startswith(b"up::ffff:198.19.")


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
