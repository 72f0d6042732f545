"""Which acceptance tests run, how their outcomes are told, and how several sessions share them."""

import multiprocessing
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from imagebuilder.commands.test import behaviours
from imagebuilder.errors import WrongInputError
from imagebuilder.runs.record import Outcome, TestResult
from imagebuilder.vm.acceptance import Collected, Orders, Seen, WrongTestsError, collect, together
from imagebuilder.vm.denylist import Denial, Denylist, read_denylist
from imagebuilder.vm.ledger import Ledger
from imagebuilder.vm.plugin import SCENARIOS
from imagebuilder.vm.portions import Counter, Portion, Taker, portions
from imagebuilder.vm.sightings import Sightings

TODAY = date(2026, 11, 22)
DENIED = Denial(test="test_mail_between_*", tracker="https://tracker.example/7", until=date(2026, 12, 1))


def own_tests(folder: Path, **files: str) -> Path:
    tests = folder / "tests"
    tests.mkdir()
    for name, text in files.items():
        (tests / f"{name}.py").write_text(text)
    return tests


def ran(
    folder: Path, text: str, *arguments: str, take: Callable[[], Portion | None] | None = None
) -> tuple[TestResult, ...]:
    """Return what the ledger says of the tests in *text*, run for real; if need be, those that *take* gives."""
    # Each by a name of its own, as one process imports them all.
    tests = own_tests(folder, **{f"test_own_{len(text)}": text})
    ledger = Ledger([tests])
    options = ["-c", str(SCENARIOS / "pytest.ini"), "--rootdir", str(folder), "-p", "no:cacheprovider", "-q"]
    pytest.main([*options, *arguments, str(tests)], plugins=[ledger, *([Taker(take, ledger.id_of)] if take else [])])
    return ledger.results


def test_without_wishes_every_shipped_scenario_is_to_run() -> None:
    collected = collect(Orders())

    assert "scenarios/test_mail.py::test_mail_from_a_stranger_reaches_the_inbox" in collected.selected
    assert (len(collected.denied), len(collected.deselected)) == (0, 0)


def test_the_documentation_lists_every_behaviour() -> None:
    told = (Path(__file__).parents[2] / "tests/golden/behaviours.md").read_text()

    assert told.endswith(f"\n\n{behaviours(collect(Orders()).selected)}\n"), "make golden"


def test_an_expression_selects_and_the_rest_counts_as_left_out() -> None:
    everything = collect(Orders())
    collected = collect(Orders(expression="reaches_the_inbox"))

    assert collected.selected == ("scenarios/test_mail.py::test_mail_from_a_stranger_reaches_the_inbox",)
    assert len(collected.deselected) == len(everything.selected) - 1


def test_the_operators_own_tests_stand_beside_ours(tmp_path: Path) -> None:
    own = own_tests(tmp_path, test_mine="def test_mine(alice): ...", conftest="import pytest\n")
    collected = collect(Orders(roots=(SCENARIOS, own)))

    assert collected.selected[-1] == "tests/test_mine.py::test_mine"
    assert len(collected.selected) > 20


def test_our_scenarios_that_an_operators_conftest_takes_out_count_as_left_out(tmp_path: Path) -> None:
    hide = "def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if 'relay' not in i.name]\n"
    own = own_tests(tmp_path, test_hiding="def test_mine(): ...", conftest=hide)
    collected = collect(Orders(roots=(SCENARIOS, own)))

    assert any("relay" in name for name in collected.deselected)
    assert not any("relay" in name for name in collected.selected)


@pytest.mark.parametrize("text", ["def test_mine(:\n", "import no_such_module\n"])
def test_a_file_that_is_no_python_is_named(tmp_path: Path, text: str) -> None:
    own = own_tests(tmp_path, test_broken=text)

    with pytest.raises(WrongTestsError, match=r"test_broken\.py"):
        collect(Orders(roots=(SCENARIOS, own)))


def test_an_expression_that_is_none_is_wrong_input() -> None:
    with pytest.raises(WrongTestsError, match="-k"):
        collect(Orders(expression="inbox or ("))


def test_a_denied_test_does_not_run_and_says_where_it_is_followed_up() -> None:
    collected = collect(Orders(denylist=Denylist((DENIED,), TODAY)))

    (denied,) = collected.denied
    assert denied.outcome is Outcome.DENIED
    assert denied.tracker == "https://tracker.example/7"
    assert denied.id not in collected.selected
    assert collected.deselected == ()


def test_a_denial_ends_on_its_day_and_then_asks_to_be_removed() -> None:
    over = Denylist((DENIED,), DENIED.until)

    assert over.denial_of("test_mail_between_two_users_stays_at_home") is None
    assert "runs again" in over.remarks(["test_mail_between_two_users_stays_at_home"])[0]
    assert "no test is called so" in over.remarks(["test_other"])[0]


def test_every_fault_of_a_denylist_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "topology.denylist.toml"
    path.write_text('deny = 1\n[[denied]]\ntest = "a"\nuntil = "soon"\n')

    with pytest.raises(WrongInputError) as caught:
        read_denylist(path, TODAY)
    assert {problem.place for problem in caught.value.problems} == {"deny", "denied[0].tracker", "denied[0].until"}


def test_a_test_that_passes_when_tried_again_is_flaky_and_keeps_its_first_failure(tmp_path: Path) -> None:
    text = """
tries = []

def test_second_time_lucky():
    tries.append(1)
    assert len(tries) > 1, "not yet"

def test_never():
    assert False, "never"
"""
    flaky, never = ran(tmp_path, text, "--reruns", "1")

    assert (flaky.outcome, flaky.tries) == (Outcome.FLAKY, 2)
    assert "not yet" in flaky.reason
    assert (never.outcome, never.tries) == (Outcome.FAILED, 2)


def test_a_failure_after_the_test_itself_is_a_failure(tmp_path: Path) -> None:
    text = """
import pytest

@pytest.fixture
def room():
    yield
    assert False, "untidy"

def test_guest(room): ...

def test_unfit():
    pytest.skip("not here")
"""
    guest, unfit = ran(tmp_path, text)

    assert guest.outcome is Outcome.FAILED
    assert "untidy" in guest.reason
    assert (unfit.outcome, unfit.reason) == (Outcome.SKIPPED, "not here")


def test_what_takes_long_begins_first_and_tests_that_share_a_pair_stay_together() -> None:
    tests = ["x::a", "x::b", "x::c", "x::boots", "y::d", "y::e", "y::f"]
    durations = {"x::a": 4.0, "x::b": 9.0, "y::d": 12.0, "y::e": 7.0}

    found = portions(tests, settled={"x::b", "y::d", "y::e", "y::f"}, long={"x::boots"}, durations=durations)

    assert found == (("x::boots",), ("x::c",), ("x::a",), ("x::b",), ("y::d", "y::e"), ("y::f",))


def test_sessions_side_by_side_take_every_test_once_a_round_from_both_ends() -> None:
    counter = Counter((("long",), ("a", "b"), ("c",)), multiprocessing.get_context("fork"))

    taken = [counter.take(1, first=first) for first in (False, True, False, True, False)]
    assert taken == [("c",), ("long",), ("a", "b"), None, None]
    assert [counter.take(2, first=True), counter.take(1, first=False), counter.take(2, first=True)] == [
        ("long",), None, ("a", "b"),
    ]  # fmt: skip


def test_a_session_runs_what_it_takes_in_that_order(tmp_path: Path) -> None:
    text = "def test_one(): ...\ndef test_two(): ...\ndef test_three(): assert False\n"
    file = f"tests/test_own_{len(text)}.py"
    given = iter([(f"{file}::test_three",), (f"{file}::test_one",)])

    three, one = ran(tmp_path, text, take=lambda: next(given, None))

    assert (three.id, three.outcome) == (f"{file}::test_three", Outcome.FAILED)
    assert (one.id, one.outcome) == (f"{file}::test_one", Outcome.PASSED)


def test_what_several_sessions_saw_is_put_together() -> None:
    def seen(name: str) -> Seen:
        test = TestResult(id=name, outcome=Outcome.FAILED, seconds=1, evidence=("failures/x/proxy.console.txt",))
        return Seen((test,), "tcg", 8.0, restores_s=(1.5,), sightings=Sightings())

    whole = together({"job-1": seen("a"), "job-2": seen("b")})

    assert [test.id for test in whole.tests] == ["a", "b"]
    assert whole.tests[1].evidence == ("job-2/failures/x/proxy.console.txt",)
    assert whole.restores_s == (1.5, 1.5)


def test_all_tests_are_those_to_run_and_those_that_are_not() -> None:
    denied = TestResult(id="b", outcome=Outcome.DENIED, seconds=0)

    assert Collected(("a",), (denied,), ("c",)).all == ("a", "b", "c")
