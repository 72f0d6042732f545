"""The one exception that reaches the operator. Pure."""

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
