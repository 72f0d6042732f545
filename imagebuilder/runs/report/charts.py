"""Boots, journeys, doors and durations of a record as a page shows them: places in percent, words for numbers. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from imagebuilder.runs.record import BootChart, DoorCheck, Hop, Message, Outcome, Record, TestResult
from imagebuilder.topology import Role

EARLIER_MAX = 10
"""So many earlier runs are compared with."""
SLOWER, SLOWER_S = 1.5, 3.0
"""A test is told as slower than usual when it took this many times as long, and this much longer."""


@dataclass(frozen=True)
class Bar:
    """A bar along an axis of 100."""

    name: str
    left: float
    width: float
    words: str
    kind: str = ""


@dataclass(frozen=True)
class Boot:
    """How one machine booted."""

    role: Role
    words: str
    phases: tuple[Bar, ...]
    units: tuple[Bar, ...]
    ticks: tuple[Bar, ...]
    """Marks of the axis, at whole seconds."""


def boot(role: Role, chart: BootChart) -> Boot:
    """Return the rows of a *chart*."""
    whole = chart.finished_s or 1.0

    def bar(name: str, began: float, ended: float, kind: str) -> Bar:
        words = f"{ended - began:.1f} s" if ended > began else f"at {began:.1f} s"
        return Bar(name, _share(began, whole), max(_share(ended - began, whole), 0.4), words, kind)

    initrd = chart.initrd_s or chart.userspace_s
    phases = (
        bar("kernel", 0.0, initrd, "kernel"),
        bar("initrd", initrd, chart.userspace_s, "initrd"),
        bar("system", chart.userspace_s, chart.finished_s, "system"),
    )
    units = tuple(
        bar(unit.name, unit.began_s, min(unit.ready_s, whole), "target" if unit.name.endswith(".target") else "unit")
        for unit in chart.units
    )
    before = f", after {chart.firmware_s:.1f} s of firmware" if chart.firmware_s else ""
    return Boot(role, f"{whole:.1f} s from the kernel to the last unit{before}", phases, units, tuple(_ticks(whole)))


def _ticks(whole: float) -> Iterator[Bar]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if whole / step <= 6)
    for second in range(0, int(whole) + 1, step):
        yield Bar(f"{second} s", _share(second, whole), 0.0, "")


@dataclass(frozen=True)
class Station:
    """A hop of a message."""

    hop: Hop
    after: str
    """How long after the one before, in words; empty when nobody knows."""
    place: str
    """outside, proxy or client: whose station it is."""

    @property
    def whence(self) -> str:
        """Who handed the message over."""
        named = self.hop.from_name if self.hop.from_name != self.hop.from_address else ""
        return " ".join(filter(None, (named, f"[{self.hop.from_address}]" if self.hop.from_address else "")))


@dataclass(frozen=True)
class Way:
    """A message and its stations."""

    message: Message
    stations: tuple[Station, ...]
    test: str
    """Its test, as prose."""


def way(message: Message, record: Record) -> Way:
    """Return the way of *message*."""
    before, stations = None, []
    for hop in message.hops:
        after = ""
        if hop.at is not None and before is not None:
            after = f"+{max((hop.at - before).total_seconds(), 0):.0f} s"
        before = hop.at or before
        stations.append(Station(hop, after, _place(hop, record)))
    tests = {test.id.rpartition("::")[2]: test.sentence for test in record.tests}
    return Way(message, tuple(stations), tests.get(message.test, ""))


def _place(hop: Hop, record: Record) -> str:
    if hop.software.startswith("Haraka"):
        return "proxy"
    return "client" if hop.by in (record.scene.proxy, record.scene.client) else "outside"


@dataclass(frozen=True)
class DoorRow:
    """A row of the port matrix."""

    check: DoorCheck
    cells: tuple[tuple[str, str], ...]
    """For each port of the matrix: a kind (open, closed, intruder, missing) and it in words."""


def door_columns(doors: Sequence[DoorCheck]) -> tuple[int, ...]:
    """Return every port that was expected or seen anywhere."""
    return tuple(sorted({port for check in doors for port in (*check.expected, *check.seen)}))


def door_row(check: DoorCheck, columns: Sequence[int]) -> DoorRow:
    """Return *check* as a row of the matrix with these *columns*."""
    words = {
        (True, True): ("open", "open, as it should be"),
        (False, False): ("closed", "closed, as it should be"),
        (False, True): ("intruder", "open, and should be closed"),
        (True, False): ("missing", "closed, and should be open"),
    }
    return DoorRow(check, tuple(words[port in check.expected, port in check.seen] for port in columns))


@dataclass(frozen=True)
class TestRow:
    """A test beside its earlier runs."""

    __test__ = False  # not a class of tests, for pytest

    test: TestResult
    width: float
    """Of its bar, beside the longest test of the run."""
    earlier: tuple[Bar, ...]
    """Its durations, the oldest run first and this one last."""
    words: str
    """The comparison; empty when there is nothing to compare with."""
    slower: bool


def rows_of_tests(record: Record, earlier: Sequence[Record]) -> dict[str, tuple[TestRow, ...]]:
    """Return the tests of *record* by their groups, each beside what it took in *earlier* runs, the oldest first."""
    longest = max((test.seconds for test in record.tests), default=0.0) or 1.0
    past: dict[str, list[float]] = {}
    for run in earlier[-EARLIER_MAX:]:
        for test in run.tests:
            if test.outcome in (Outcome.PASSED, Outcome.FLAKY):
                past.setdefault(test.id, []).append(test.seconds)
    rows: dict[str, list[TestRow]] = {}
    for test in record.tests:
        rows.setdefault(test.group, []).append(_test_row(test, past.get(test.id, []), longest))
    return {group: tuple(tests) for group, tests in rows.items()}


def _test_row(test: TestResult, before: Sequence[float], longest: float) -> TestRow:
    ran = test.outcome in (Outcome.PASSED, Outcome.FLAKY, Outcome.FAILED)
    width = _share(test.seconds, longest) if ran else 0.0
    if not before or not ran:
        return TestRow(test, width, (), "", slower=False)
    usual, highest = median(before), max(*before, test.seconds, 0.001)
    all_seconds = (*before, test.seconds)
    step = 100 / len(all_seconds)
    bars = tuple(
        Bar("", index * step, _share(seconds, highest), f"{seconds:.1f} s", "now" if index == len(before) else "")
        for index, seconds in enumerate(all_seconds)
    )
    slower = test.seconds > usual * SLOWER and test.seconds - usual > SLOWER_S
    words = f"usually {usual:.1f} s"
    return TestRow(test, width, bars, words, slower)


def _share(part: float, whole: float) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
