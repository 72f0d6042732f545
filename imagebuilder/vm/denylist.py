"""The operator's denylist: tests that are known to fail, where that is followed up, and until when. Reads a file."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from imagebuilder.errors import Problem, WrongInputError


class Denial(BaseModel):
    """Tests that are not to run for a while."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test: str
    """Name of the test, as in "test_mail_between_two_users_stays_at_home"; may have * and ?."""
    tracker: str
    """Where the trouble is followed up: the URL of an issue."""
    until: date
    """From this day (UTC) on it runs again."""
    reason: str = ""


@dataclass(frozen=True)
class Denylist:
    """All denials, and the day they are held against."""

    denials: tuple[Denial, ...]
    today: date

    def denial_of(self, name: str) -> Denial | None:
        """Return why the test *name* must not run today, or None. Pure."""
        for denial in self.denials:
            if self.today < denial.until and matches(denial, name):
                return denial
        return None

    def remarks(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return what the operator should tidy up, a line each: denials that are over, or match no test. Pure."""
        known, lines = tuple(names), []
        for denial in self.denials:
            if not any(matches(denial, name) for name in known):
                lines.append(f"the denylist names {denial.test!r}, and no test is called so")
            elif self.today >= denial.until:
                lines.append(f"{denial.test!r} was denied until {denial.until} and runs again: {denial.tracker}")
        return tuple(lines)


def matches(denial: Denial, name: str) -> bool:
    """Return whether *denial* is about the test *name*, with its parameters or without. Pure."""
    return fnmatchcase(name.partition("[")[0], denial.test) or name == denial.test


def read_denylist(path: Path, today: date) -> Denylist:
    """Return the denylist in the file *path*, empty when there is none; raise WrongInputError with all faults."""
    if not path.exists():
        return Denylist((), today)
    hint = 'each entry is [[denied]] with test = "NAME", tracker = "URL" and until = 2027-01-31'
    try:
        document = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise WrongInputError(path.name, (Problem("", str(error)),), hint=hint) from error
    problems = [Problem(key, "no such key") for key in document if key != "denied"]
    rows = document.get("denied", [])
    denials = []
    if not isinstance(rows, list):
        problems.append(Problem("denied", "is to be written [[denied]], a table for each test"))
        rows = []
    for index, row in enumerate(rows):
        try:
            denials.append(Denial.model_validate(row))
        except ValidationError as error:
            for fault in error.errors():
                place = ".".join((f"denied[{index}]", *map(str, fault["loc"])))
                problems.append(Problem(place, fault["msg"].lower()))
    if problems:
        raise WrongInputError(path.name, tuple(problems), hint=hint)
    return Denylist(tuple(denials), today)
