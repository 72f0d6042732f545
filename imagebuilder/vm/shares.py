"""How tests are shared out among sessions that run side by side. Pure."""

from collections.abc import Mapping, Sequence

UNKNOWN_S = 10.0
"""Taken for a test that never ran here."""


def shares(tests: Sequence[str], jobs: int, durations: Mapping[str, float]) -> tuple[tuple[str, ...], ...]:
    """Return *tests* in at most *jobs* parts that take about as long as each other, by what *durations* tell.

    The longest first, each to whoever has the least to do; every part keeps the order of *tests*.
    """
    parts: list[list[str]] = [[] for _ in range(max(1, min(jobs, len(tests))))]
    loads = [0.0] * len(parts)
    for test in sorted(tests, key=lambda name: -durations.get(name, UNKNOWN_S)):
        least = loads.index(min(loads))
        parts[least].append(test)
        loads[least] += durations.get(test, UNKNOWN_S)
    places = {test: place for place, test in enumerate(tests)}
    return tuple(tuple(sorted(part, key=places.__getitem__)) for part in parts)
