"""Waiting for something to become true, saying what is awaited and what was last seen. Touches the clock."""

import fcntl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import say


class ExpectationError(AssertionError):
    """What a test expected is not so; the bed itself works."""


class HopelessError(ExpectationError):
    """Waiting longer can't help."""


@dataclass(frozen=True)
class Seen:
    """One look at what is awaited."""

    there: bool
    what: str
    """What was seen, for the message when time is up."""


@dataclass(frozen=True)
class Patience:
    """How much slower than a machine with its own processor everything is here."""

    factor: float = 1.0

    def seconds(self, natural_s: float) -> float:
        """Return how long to wait here for what takes up to *natural_s* elsewhere."""
        return natural_s * self.factor


NATURAL = Patience()
"""That of a machine with a processor of its own."""


def wait_for(what: str, look: Callable[[], Seen], *, within_s: float, every_s: float = 0.25) -> float:
    """Return the seconds that it took until *look* saw *what*; raise ExpectationError after *within_s*.

    *look* raises HopelessError when waiting longer makes no sense.
    """
    started = time.monotonic()
    told = started
    while True:
        seen = look()
        now = time.monotonic()
        if seen.there:
            return now - started
        if now - started > within_s:
            raise ExpectationError(f"awaited {what} for {within_s:.0f} s; last seen: {seen.what}")
        if now - told > 15:
            told = now
            say(f"awaiting {what} for {now - started:.0f} of {within_s:.0f} s; seen: {seen.what}")
        time.sleep(every_s)


def hold_alone(file: IO[str], what: str, *, within_s: float) -> None:
    """Lock *file*, which stands for *what*, for this process alone; raise ImagebuilderError after *within_s*."""

    def look() -> Seen:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Seen(False, "another run has it")
        return Seen(True, "nobody else")

    try:
        wait_for(what, look, within_s=within_s, every_s=0.05)
    except ExpectationError as error:
        raise ImagebuilderError(str(error)) from error
