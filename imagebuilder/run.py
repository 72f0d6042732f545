"""The one place that runs processes."""

import contextlib
import os
import resource
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from imagebuilder.errors import ExitStatus, ImagebuilderError

PASSED_ON = ("HOME", "PATH", "TMPDIR", "USER", "http_proxy", "https_proxy", "no_proxy")
"""What a child gets of our environment; everything else is named by the caller."""

UNTIL_WE_END = ("setpriv", "--pdeathsig", "KILL", "--")
"""In front of an argv: when we are killed, so is the child, as nobody else would wait for it."""

KILLED_S = 60.0
"""Seconds that the kernel may take to end a killed process: one that waits for a disk ends when that answers."""

verbose = False
"""Whether each command is shown on stderr, ready to paste; the command line sets it."""


def forbid_core_dumps() -> None:
    """Let neither this process nor its children leave their memory, with keys in it, on the disk when they crash."""
    # Not 0: that keeps files away only, 1 stops the kernel from piping the memory to a program too (core(5)).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def say(line: str) -> None:
    """Tell the operator on stderr what goes on; stdout is for results."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 (the one place that does)


class ProcessError(ImagebuilderError):
    """A process that we need ended with a failure; the message carries the end of what it said."""

    def __init__(
        self, argv: Sequence[str], returncode: int, output: str, *, stdout: str = "", hint: str | None = None
    ) -> None:
        tail = "".join(f"\n  {line}" for line in output.strip().splitlines()[-12:])
        super().__init__(f"{program(argv)} ended with status {returncode}{tail}", hint=hint)
        self.returncode = returncode
        self.output = output
        self.stdout = stdout


@dataclass(frozen=True)
class Result:
    """What a process said."""

    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode()


def program(argv: Sequence[str]) -> str:
    """Return the name of the program that *argv* is about, past any sandbox in front of it. Pure."""
    inner = argv[argv.index("--") + 1 :] if "--" in argv else argv
    return Path((inner or argv)[0]).name


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the small environment that a child gets: a few variables of ours, a fixed locale and *extra*."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed | {"LC_ALL": "C.UTF-8", "TZ": "UTC"} | dict(extra or {})


_running: set[subprocess.Popen[bytes]] = set()
ATTENTIVE_S = 0.5
"""The main thread moves so often while it waits: a signal may reach any thread, and is heeded when that one moves."""

Outcome = TypeVar("Outcome")

_here = threading.local()
"""What this thread works for: ``stopping``, an event, when it is one of Workers'."""


def end(process: subprocess.Popen[bytes], *, politely_s: float = 0) -> None:
    """End *process*, asked first if it gets *politely_s*, and wait for that; raise ImagebuilderError if it stays."""
    if politely_s:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(politely_s)
    process.kill()
    try:
        process.wait(KILLED_S)
    except subprocess.TimeoutExpired as error:
        raise ImagebuilderError(f"process {process.pid} was killed and does not end") from error


class StoppedError(ImagebuilderError):
    """The operator stopped us while, or before, a process ran."""

    status = ExitStatus.STOPPED

    def __init__(self) -> None:
        super().__init__("stopped")


class Workers(ThreadPoolExecutor):
    """Threads that run processes; after a failure nothing more begins, and an interruption ends what runs at once."""

    def __init__(self, max_workers: int) -> None:
        # Set for good: a thread whose start was interrupted runs on, and nobody waits for it below.
        self._stopping = threading.Event()
        super().__init__(max_workers, initializer=setattr, initargs=(_here, "stopping", self._stopping))

    def map(
        self, fn: Callable[..., Outcome], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Outcome]:
        """Begin *fn* for all that *iterables* give, and return what it gives, in their order."""
        return _outcomes([self.submit(fn, *arguments) for arguments in zip(*iterables, strict=False)], timeout)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if kind is not None:  # what has not begun need not begin
            self.shutdown(wait=False, cancel_futures=True)
            if issubclass(kind, KeyboardInterrupt):
                self._stop()
        try:
            return super().__exit__(kind, error, traceback)
        except KeyboardInterrupt:  # while waiting for the others, after one has failed
            self._stop()
            raise

    def _stop(self) -> None:
        self._stopping.set()
        for process in tuple(_running):
            process.kill()


def _outcomes(futures: Sequence[Future[Outcome]], timeout_s: float | None) -> Iterator[Outcome]:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        for future in futures:
            while not future.done():
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError
                wait([future], ATTENTIVE_S)
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _stopped() -> bool:
    """Say whether this thread is to begin nothing more."""
    return hasattr(_here, "stopping") and _here.stopping.is_set()


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    timeout_s: float | None = None,
    umask: int = 0o022,
    hint: str | None = None,
    name: str | None = None,
    pass_fds: Sequence[int] = (),
) -> Result:
    """Run *argv* to its end and return what it said; raise ProcessError unless its status is 0.

    *name* is what the operator knows the program by, when argv doesn't say. The open files *pass_fds* are the child's
    too, under the same numbers.
    """
    if _stopped():
        raise StoppedError
    if verbose:
        say(shlex.join(argv))
    surroundings = environment(env)
    _there(argv, surroundings, hint)
    process = subprocess.Popen(
        [*UNTIL_WE_END, *argv], env=surroundings, cwd=cwd, umask=umask,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=pass_fds,
    )  # fmt: skip
    stdout, stderr = _ended(process, argv, stdin, timeout_s, hint)
    if process.returncode:
        said = (stderr or stdout).decode(errors="replace")
        out = stdout.decode(errors="replace")
        raise ProcessError([name] if name else argv, process.returncode, said, stdout=out, hint=hint)
    return Result(stdout, stderr)


@contextlib.contextmanager
def started(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, hint: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start *argv*, for a dialogue over its three pipes, and yield it; it ends with the block, at the latest."""
    if verbose:
        say(shlex.join(argv))
    surroundings = environment(env)
    _there(argv, surroundings, hint)
    process = subprocess.Popen(
        [*UNTIL_WE_END, *argv], env=surroundings,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _there(argv: Sequence[str], surroundings: Mapping[str, str], hint: str | None) -> None:
    """Raise ImagebuilderError when there is no such program."""
    for needed in (UNTIL_WE_END[0], argv[0]):
        if shutil.which(needed, path=surroundings.get("PATH")) is None:
            raise ImagebuilderError(f"there is no program {needed!r} on this machine", hint=hint)


def _ended(
    process: subprocess.Popen[bytes], argv: Sequence[str], stdin: bytes, timeout_s: float | None, hint: str | None
) -> tuple[bytes, bytes]:
    """Return what *process* said until its end, which comes early when we are interrupted."""
    with process:
        _running.add(process)
        try:
            if _stopped():
                raise StoppedError
            said = process.communicate(stdin, timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise ImagebuilderError(f"{program(argv)} did not end within {timeout_s:.0f} s", hint=hint) from error
        except BaseException:
            process.kill()
            raise
        finally:
            _running.discard(process)
    if _stopped():
        raise StoppedError
    return said
