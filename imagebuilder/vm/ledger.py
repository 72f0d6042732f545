"""Which acceptance tests are run, which are not and why, and how each ended. A pytest plugin."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuilder.runs.record import Outcome, TestResult
from imagebuilder.vm.denylist import Denylist

EVIDENCE, FAULT = "evidence", "fault"
"""Names of a report's properties: files about a failure, and whether it is the bed's own."""
REASON_CHARACTERS = 4000
SETTLED, LONG, GENTLE = "settled", "long", "gentle"
"""Names of markers; pytest.ini says what they mean."""


@dataclass
class Entry:
    """What is known of one test so far."""

    outcome: Outcome | None = None
    seconds: float = 0.0
    tries: int = 1
    reason: str = ""
    fault: bool = False
    evidence: tuple[str, ...] = ()


class Ledger:
    """Keep the books of one call of pytest over the folders *roots*."""

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        denylist: Denylist | None = None,
        only: frozenset[str] | None = None,
        gentle: bool = False,
        announce: Callable[[TestResult], None] | None = None,
    ) -> None:
        self._roots = tuple(roots)
        self._denylist = denylist
        self._only = only
        self._gentle = gentle
        self._announce = announce
        self._entries: dict[str, Entry] = {}
        self._ids: dict[str, str] = {}
        self._silent: set[str] = set()
        self.selected: tuple[str, ...] = ()
        """Tests that are to run."""
        self.settled: frozenset[str] = frozenset()
        """Those of them that share a pair."""
        self.long: frozenset[str] = frozenset()
        """Those of them that take long."""
        self.denied: tuple[TestResult, ...] = ()
        self.deselected: tuple[str, ...] = ()
        """Tests that the operator left out."""
        self.complaints: list[str] = []
        """What kept files from being read as tests."""

    @property
    def results(self) -> tuple[TestResult, ...]:
        """How each test ended that did."""
        return tuple(self._result(name, entry) for name, entry in self._entries.items() if entry.outcome)

    def id_of(self, item: pytest.Item) -> str:
        """Return the name of *item* wherever the files are: "scenarios/test_mail.py::test_…"."""
        name = item.nodeid.partition("::")[2]
        for root in self._roots:
            if item.path.is_relative_to(root):
                return f"{root.name}/{item.path.relative_to(root)}::{name}"
        return f"{item.path.name}::{name}"

    # --- before

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember a file that can't be read as tests."""
        if report.failed:
            self.complaints.append(f"{report.nodeid}: {str(report.longrepr).strip()}")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Take out what is denied, and what was not asked for."""
        self._ids = {item.nodeid: self.id_of(item) for item in items}
        denied, others = [], []
        for item in items:
            denial = self._denylist.denial_of(item.name) if self._denylist else None
            if denial is not None:
                reason = " ".join(filter(None, (f"denied until {denial.until}.", denial.reason)))
                told = TestResult(
                    id=self.id_of(item), outcome=Outcome.DENIED, seconds=0, reason=reason, tracker=denial.tracker
                )
                self.denied += (told,)
                denied.append(item)
            elif (self._only is not None and self.id_of(item) not in self._only) or (
                self._gentle and item.get_closest_marker(GENTLE) is None
            ):
                others.append(item)
        self._silent = {item.nodeid for item in (*denied, *others)}
        items[:] = [item for item in items if item.nodeid not in self._silent]
        if denied:
            config.hook.pytest_deselected(items=denied)
        self.selected = tuple(self.id_of(item) for item in items)
        self.settled, self.long = (
            frozenset(self.id_of(item) for item in items if item.get_closest_marker(name)) for name in (SETTLED, LONG)
        )

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count what the operator left out."""
        self.deselected += tuple(self.id_of(item) for item in items if item.nodeid not in self._silent)

    # --- after

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write down one phase of one test."""
        entry = self._entries.setdefault(self._ids.get(report.nodeid, report.nodeid), Entry())
        entry.seconds += report.duration
        if str(report.outcome) == "rerun":  # by pytest-rerunfailures: this try failed, another one follows
            entry.reason, entry.fault, entry.evidence = _reason(report), _fault(report), tuple(_evidence(report))
            entry.tries, entry.seconds = entry.tries + 1, 0.0
            return
        if report.failed:
            first = entry.outcome is not Outcome.FAILED
            entry.reason = _reason(report) if first else f"{entry.reason}\n{_reason(report)}"[:REASON_CHARACTERS]
            entry.outcome, entry.fault = Outcome.FAILED, entry.fault or _fault(report)
            entry.evidence = (*entry.evidence, *_evidence(report))
        elif report.skipped and entry.outcome is None:
            entry.outcome, entry.reason = Outcome.SKIPPED, _reason(report)
        elif report.when == "call" and entry.outcome is None:
            entry.outcome = Outcome.FLAKY if entry.tries > 1 else Outcome.PASSED
        if report.when == "teardown" and self._announce and entry.outcome:
            self._announce(self._result(self._ids.get(report.nodeid, report.nodeid), entry))

    @staticmethod
    def _result(name: str, entry: Entry) -> TestResult:
        assert entry.outcome is not None
        fields = dataclasses.asdict(entry) | {"outcome": entry.outcome, "seconds": round(entry.seconds, 3)}
        return TestResult(id=name, **fields)


def _evidence(report: pytest.TestReport) -> Iterator[str]:
    yield from (str(value) for name, value in report.user_properties if name == EVIDENCE)


def _fault(report: pytest.TestReport) -> bool:
    return any(name == FAULT for name, _ in report.user_properties)


def _reason(report: pytest.TestReport) -> str:
    told: object = report.longrepr
    if isinstance(told, tuple):  # a skip: file, line, reason
        return str(told[2]).removeprefix("Skipped: ")
    crash = getattr(told, "reprcrash", None)
    return str(crash.message if crash is not None else told)[:REASON_CHARACTERS]
