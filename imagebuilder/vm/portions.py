"""How sessions side by side share the tests: whoever is done takes the next portion."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from multiprocessing.context import ForkContext

import pytest

UNKNOWN_S = 5.0
"""Taken for a test that never ran here."""
TOGETHER_S = 20.0
"""What the tests of a portion take together, about: at the end a session waits no longer for the others."""

Portion = tuple[str, ...]


def portions(
    tests: Sequence[str], *, settled: Collection[str], long: Collection[str], durations: Mapping[str, float]
) -> tuple[Portion, ...]:
    """Return *tests* in portions, in the order in which to begin them. Pure.

    *long* ones come first, those that share a pair, *settled*, come together at the end, and what took longest by
    *durations* comes before the rest.
    """

    def takes(test: str) -> float:
        return durations.get(test, UNKNOWN_S)

    alone = sorted((test for test in tests if test not in settled), key=lambda test: (test not in long, -takes(test)))
    found: list[Portion] = [(test,) for test in alone]
    for _, group in groupby((test for test in tests if test in settled), key=lambda test: test.partition("::")[0]):
        portion: Portion = ()
        for test in group:
            if portion and sum(map(takes, (*portion, test))) > TOGETHER_S:
                found.append(portion)
                portion = ()
            portion += (test,)
        found.append(portion)
    return tuple(found)


class Counter:
    """Portions that processes forked from this one take in turn, round after round.

    The first of them takes what is long and then whatever is next, the others come from the other end. So at any time
    one boots at most: two boots at once take more than twice as long where processors are few.
    """

    def __init__(self, found: Sequence[Portion], forked: ForkContext) -> None:
        self.tests = tuple(test for portion in found for test in portion)
        self._portions = tuple(found)
        self._lock = forked.Lock()
        self._round, self._front, self._back = (forked.Value("i", value, lock=False) for value in (1, 0, 0))

    def take(self, number: int, *, first: bool) -> Portion | None:
        """Return the next portion of round *number*, which counts from 1; None when all of them are taken."""
        with self._lock:
            if number > self._round.value:  # whoever asks has seen the end of the one before
                self._round.value, self._front.value, self._back.value = number, 0, 0
            if number < self._round.value or self._front.value + self._back.value == len(self._portions):
                return None
            if first:
                self._front.value += 1
                return self._portions[self._front.value - 1]
            self._back.value += 1
            return self._portions[-self._back.value]


class Taker:
    """The pytest plugin that runs what *take* gives, until it gives none."""

    def __init__(self, take: Callable[[], Portion | None], id_of: Callable[[pytest.Item], str]) -> None:
        self._take = take
        self._id_of = id_of

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests of each portion, as pytest's own loop would."""
        items = {self._id_of(item): item for item in session.items}
        while portion := self._take():
            for test, following in zip(portion, (*portion[1:], None), strict=True):
                item, next_item = items[test], items[following] if following else None
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
        return True
