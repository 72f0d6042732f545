"""Past runs are kept, found by name, and not kept for ever."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagebuilder.runs.history import KEPT, RECORD, History, NoSuchRunError, durations
from imagebuilder.runs.record import Outcome, TestResult, Verdict
from imagebuilder.store.folder import Store
from tests.unit.records import record


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(Store(tmp_path))


def kept(history: History, name: str, key: str = "k") -> Path:
    folder = history.folder / name
    folder.mkdir(parents=True)
    history.keep(record(run=name, topology_key=key), folder)
    return folder


def test_a_record_that_was_kept_is_read_back_as_it_was(history: History) -> None:
    folder = history.new_run()
    written = record(run=folder.name)
    history.keep(written, folder)

    (run,) = history.all()
    assert run.record == written
    assert run.folder == folder


def test_two_runs_in_one_second_have_folders_of_their_own(history: History) -> None:
    assert history.new_run() != history.new_run()


def test_runs_are_found_by_name_by_beginning_and_as_the_latest_of_a_topology(history: History) -> None:
    kept(history, "2026-11-21T10-00-00")
    kept(history, "2026-11-22T10-00-00", key="other")

    assert history.find("2026-11-21").folder.name == "2026-11-21T10-00-00"
    assert history.find("latest", "k").folder.name == "2026-11-21T10-00-00"
    with pytest.raises(NoSuchRunError, match="several"):
        history.find("2026-11")
    with pytest.raises(NoSuchRunError, match="no run"):
        history.find("2025")


def test_only_the_newest_runs_stay_and_those_with_kept_disks(history: History) -> None:
    folders = [kept(history, f"2026-11-22T10-00-0{second}") for second in range(5)]
    (folders[0] / KEPT).mkdir()
    running = history.new_run()

    assert history.forget_the_oldest(2) == (folders[1], folders[2])
    assert [run.folder for run in history.all()] == [folders[0], folders[3], folders[4]]
    assert running.exists()


def test_a_record_of_another_version_is_passed_over(history: History) -> None:
    folder = kept(history, "2026-11-22T10-00-00")
    (folder / RECORD).write_text('{"format": 99}')

    assert history.all() == ()


def test_a_tests_duration_is_that_of_its_last_run(history: History) -> None:
    for second, seconds in enumerate((3.0, 5.0)):
        folder = history.folder / f"2026-11-22T10-00-0{second}"
        folder.mkdir(parents=True)
        test = TestResult(id="a", outcome=Outcome.PASSED, seconds=seconds)
        history.keep(record(run=folder.name, tests=(test,)), folder)

    folder = history.folder / "2026-11-22T10-00-03"
    folder.mkdir()
    # what deployed hosts did tells nothing of machines in the bed
    test = TestResult(id="a", outcome=Outcome.PASSED, seconds=0.1)
    history.keep(record(run=folder.name, tests=(test,), deployed=True), folder)

    assert durations(history.all()) == {"a": 5.0}


def test_a_run_is_passed_only_when_nothing_failed_and_nothing_was_left_out() -> None:
    failed = TestResult(id="a", outcome=Outcome.FAILED, seconds=1)
    denied = TestResult(id="b", outcome=Outcome.DENIED, seconds=0)
    passed = TestResult(id="c", outcome=Outcome.PASSED, seconds=1)

    assert record(tests=(passed,)).verdict is Verdict.PASSED
    assert record(tests=(passed, failed)).verdict is Verdict.FAILED
    assert record(tests=(passed, denied)).verdict is Verdict.PARTIAL
    assert record(tests=(passed,), deselected=2).verdict is Verdict.PARTIAL
    assert record(tests=(passed,), never_ran=("d",)).verdict is Verdict.PARTIAL
    assert record(tests=()).verdict is Verdict.PARTIAL
    assert record(started=datetime(2026, 1, 1, tzinfo=UTC)).started.year == 2026
