"""The one place that runs processes."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ImagebuilderError

PASSED_ON = ("HOME", "PATH", "TMPDIR", "USER", "http_proxy", "https_proxy", "no_proxy")
"""What a child gets of our environment; everything else is named by the caller."""

verbose = False
"""Whether each command is shown on stderr, ready to paste; the command line sets it."""


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


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    timeout_s: float | None = None,
    umask: int = 0o022,
    hint: str | None = None,
) -> Result:
    """Run *argv* to its end and return what it said; raise ProcessError unless its status is 0."""
    if verbose:
        say(shlex.join(argv))
    try:
        done = subprocess.run(
            list(argv), input=stdin, env=environment(env), cwd=cwd,
            capture_output=True, check=False, timeout=timeout_s, umask=umask,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ImagebuilderError(f"there is no program {argv[0]!r} on this machine", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise ImagebuilderError(f"{program(argv)} did not end within {timeout_s:.0f} s", hint=hint) from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace")
        raise ProcessError(argv, done.returncode, said, stdout=done.stdout.decode(errors="replace"), hint=hint)
    return Result(done.stdout, done.stderr)
