"""A private copy of the network, the mounts and the process table. Owns the system calls that make it.

Everything of the bed lives in one user namespace with a process table of its own: when its first process ends, by
whatever cause, the kernel ends the others and takes back every network, bridge, tap and mount with them.
"""

import contextlib
import ctypes
import os
import pickle
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import ProcessError, run

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG = 1

NETWORKS = Path("/run/netns")
"""Where the networks are mounted, by name; /run is empty at first."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class _Failure:
    """What ended the work inside, in a form that passes a pipe."""

    message: str
    hint: str | None
    status: ExitStatus = ExitStatus.FAILED
    stopped: bool = False
    unexpected: bool = False
    """An assertion did not hold."""


def inside(work: Callable[[], T]) -> T:
    """Run *work* in a new namespace and return what it returned; everything that it started ends with it.

    When waiting for it is broken off, by whatever exception, it is ended.

    Raises ImagebuilderError with its message when *work* raised one, or when there can be no namespace here.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    result_read, result_write = os.pipe()
    apart_read, apart_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(result_read)
        _first_process(work, result_write, apart_write, mapped_read)
    for end in (result_write, apart_write, mapped_read):
        os.close(end)
    with os.fdopen(result_read, "rb") as results, _interrupt_passed_on(child), _ended_with_us(child):
        said = os.read(apart_read, 256)
        os.close(apart_read)
        if said == b"apart":
            _map_users(child)
            os.write(mapped_write, b"mapped")
        os.close(mapped_write)
        content = results.read()
        _, status = os.waitpid(child, 0)
    if said != b"apart":
        raise ImagebuilderError(
            f"this machine lets nobody make a user namespace: {said.decode() or 'no reason given'}",
            hint="sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000, or run as root",
        )
    returned: T = _returned(content, status)
    return returned


def _returned(content: bytes, status: int) -> Any:  # noqa: ANN401 (whatever the work returned)
    if not content:
        raise ImagebuilderError(f"the test bed ended without a word, with wait status {status}")
    outcome = pickle.loads(content)
    if isinstance(outcome, _Failure):
        if outcome.stopped:
            raise KeyboardInterrupt
        if outcome.unexpected:
            raise AssertionError(outcome.message)
        error = ImagebuilderError(outcome.message, hint=outcome.hint)
        error.status = outcome.status
        raise error
    return outcome


@contextlib.contextmanager
def _ended_with_us(child: int) -> Iterator[None]:
    """End *child*, and so its namespace, when an exception keeps us from waiting for it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise


@contextlib.contextmanager
def _interrupt_passed_on(child: int) -> Iterator[None]:
    """Let the process inside decide what an interrupt means; *child* passes it on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda _number, _frame: os.kill(child, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _first_process(work: Callable[[], T], result: int, apart: int, mapped: int) -> NoReturn:
    """Leave the host's namespaces, wait for the user map, and be the parent of the process that works."""
    die_with_parent()
    try:
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID)
    except OSError as error:
        os.write(apart, str(error).encode()[:256])
        os._exit(1)
    os.write(apart, b"apart")
    os.close(apart)
    if os.read(mapped, 16) != b"mapped":
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = os.fork()
    if worker == 0:
        die_with_parent()
        _work(work, result)
    os.close(result)
    # An interrupt at the terminal reaches the worker by itself; one that was sent to us is passed on.
    signal.signal(signal.SIGUSR1, lambda _number, _frame: os.kill(worker, signal.SIGINT))
    signal.signal(signal.SIGTERM, lambda _number, _frame: os.kill(worker, signal.SIGKILL))
    _, status = os.waitpid(worker, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _work(work: Callable[[], T], result: int) -> NoReturn:
    signal.signal(signal.SIGINT, _interrupted_once())
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    outcome: object
    try:
        _mount_own()
        outcome = work()
    except KeyboardInterrupt:
        outcome = _Failure("stopped", None, stopped=True)
    except ImagebuilderError as error:
        outcome = _Failure(str(error), error.hint, error.status)
    except AssertionError as error:
        traceback.print_exc()
        outcome = _Failure(str(error), None, unexpected=True)
    except BaseException as error:
        traceback.print_exc()
        outcome = _Failure(f"a bug in the test bed: {type(error).__name__}: {error}", None)
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(result, "wb") as results:
        pickle.dump(outcome, results)
    os._exit(ExitStatus.OK)


def _interrupted_once() -> Callable[[int, object], None]:
    """Return a handler that takes the terminal's interrupt and its copy by the parent as one."""
    last = [0.0]

    def interrupted(_number: int, _frame: object) -> None:
        now = os.times().elapsed
        if now - last[0] > 1:
            last[0] = now
            raise KeyboardInterrupt

    return interrupted


def _mount_own() -> None:
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    # A container that hides parts of /proc forbids a fresh one; process numbers are then the host's.
    with contextlib.suppress(PermissionError):
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV)
    NETWORKS.mkdir(parents=True)


def _map_users(child: int) -> None:
    """Give *child* the users that it may play: all as root, a subordinate range by newuidmap, or one."""
    if os.geteuid() == 0:
        for kind in ("uid_map", "gid_map"):
            ranges = [line.split() for line in Path(f"/proc/self/{kind}").read_text().splitlines()]
            text = "".join(f"{inner} {inner} {count}\n" for inner, _, count in ranges)
            Path(f"/proc/{child}/{kind}").write_text(text)
        return
    if shutil.which("newuidmap") and _subordinate("subuid") and _subordinate("subgid"):
        for program, kind, own in (("newuidmap", "subuid", os.geteuid()), ("newgidmap", "subgid", os.getegid())):
            first, count = _subordinate(kind) or (0, 0)
            with contextlib.suppress(ProcessError):
                argv = [program, str(child), "0", str(own), "1", "1", str(first), str(min(count, 65535))]
                run(argv, timeout_s=30)
        if Path(f"/proc/{child}/uid_map").read_text().strip():
            return
    Path(f"/proc/{child}/setgroups").write_text("deny")
    Path(f"/proc/{child}/uid_map").write_text(f"0 {os.geteuid()} 1\n")
    Path(f"/proc/{child}/gid_map").write_text(f"0 {os.getegid()} 1\n")


def _subordinate(kind: str) -> tuple[int, int] | None:
    path = Path("/etc") / kind
    names = {str(os.geteuid()), os.environ.get("USER", "")}
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, _, rest = line.partition(":")
        if name in names:
            first, _, count = rest.partition(":")
            return int(first), int(count)
    return None


def has_many_users() -> bool:
    """Return whether programs that change to a user of their own can run in this namespace."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return sum(int(count) for _, _, count in ranges) > 1


def new_network(name: str) -> None:
    """Make an empty network of that *name*, with its loopback down."""
    target = NETWORKS / name
    target.touch()
    failures: list[OSError] = []

    def make() -> None:
        try:
            _call("unshare", CLONE_NEWNET)
            _mount("/proc/thread-self/ns/net", str(target), None, MS_BIND)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failures:
        raise ImagebuilderError(f"the network {name!r} can't be made: {failures[0]}")


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Put this thread into the network *name*: sockets and processes made within belong there, for good."""
    with Path("/proc/thread-self/ns/net").open("rb") as before, (NETWORKS / name).open("rb") as network:
        _call("setns", network.fileno(), CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", before.fileno(), CLONE_NEWNET)


def bind_over(source: Path, target: Path) -> None:
    """Show *source* at *target*, a file that exists, to all processes of the namespace."""
    _mount(str(source), str(target), None, MS_BIND)


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    arguments = [None if text is None else text.encode() for text in (source, target, kind)]
    _call("mount", *arguments, flags, None)


def _call(name: str, *arguments: bytes | int | None) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
