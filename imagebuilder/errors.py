"""The one exception that reaches the operator. Pure."""

import errno
from dataclasses import dataclass
from enum import IntEnum


class ExitStatus(IntEnum):
    """What the command line returns to the shell."""

    OK = 0
    FAILED = 1
    WRONG_INPUT = 2
    STOPPED = 130


class ImagebuilderError(Exception):
    """Something the operator can act on: one sentence, and the next command to type as *hint*."""

    status = ExitStatus.FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Numbers of what goes wrong with files for reasons that the operator mends, not we."""


def refused(error: OSError) -> ImagebuilderError | None:
    """Return *error* as the operator is told of it, or None when it may well be a bug."""
    if error.errno not in NO_ROOM + NOT_ALLOWED:
        return None
    said = str(error.strerror).lower()
    return ImagebuilderError(
        said if error.filename is None else f"{error.filename}: {said}",
        hint="make room there" if error.errno in NO_ROOM else "name a place where you may read and write",
    )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in the topology."""

    place: str
    """Where, as the user wrote it: ``mail.mailboxes[2].address``; empty for the file as a whole."""
    message: str
    """What is wrong, one lower-case sentence that names the value found."""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class WrongInputError(ImagebuilderError):
    """A file of the operator's has *problems*; all of them are reported at once."""

    status = ExitStatus.WRONG_INPUT

    def __init__(self, source: str, problems: tuple[Problem, ...], *, hint: str | None = None) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{source} has {count}:{lines}", hint=hint)
        self.problems = problems
