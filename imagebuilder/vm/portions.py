"""How sessions side by side share the tests: whoever is done takes the next portion, what takes long first."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from multiprocessing.context import ForkContext

import pytest

UNKNOWN_S, LONG_S = 5.0, 120.0
"""Taken for a test that never ran here, and for one that is marked as long."""
TOGETHER_S = 20.0
"""What the tests of a portion take together, about: at the end a session waits no longer for the others."""

Portion = tuple[str, ...]


def portions(
    tests: Sequence[str], *, settled: Collection[str], long: Collection[str], durations: Mapping[str, float]
) -> tuple[Portion, ...]:
    """Return *tests* in portions, in the order in which to begin them. Pure.

    Those that share a pair, *settled*, come together and in their own order, after all others; *long* ones are known
    to take long even before *durations* are.
    """

    def takes(test: str) -> float:
        return durations.get(test, LONG_S if test in long else UNKNOWN_S)

    alone = sorted((test for test in tests if test not in settled), key=takes, reverse=True)
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
    """Portions that processes forked from this one take in turn, round after round."""

    def __init__(self, found: Sequence[Portion], forked: ForkContext) -> None:
        self.tests = tuple(test for portion in found for test in portion)
        self._portions = tuple(found)
        self._taken = forked.Value("i", 0)

    def take(self, number: int) -> Portion | None:
        """Return the next portion of round *number*, which counts from 1; None when all of them are taken."""
        with self._taken.get_lock():
            if self._taken.value >= number * len(self._portions):
                return None
            self._taken.value += 1
            return self._portions[(self._taken.value - 1) % len(self._portions)]


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
