"""What `test` calls: the acceptance tests, in one session of the bed or in several side by side."""

import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from xml.etree import ElementTree

import pytest

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import say
from imagebuilder.runs.record import TestResult
from imagebuilder.vm.denylist import Denylist
from imagebuilder.vm.deployed import Deployment, deployed
from imagebuilder.vm.ledger import Ledger
from imagebuilder.vm.namespace import die_with_parent, inside
from imagebuilder.vm.pair import BootTimes
from imagebuilder.vm.plugin import SCENARIOS, Bed, Cast, Field
from imagebuilder.vm.portions import Counter, Portion, Taker, portions
from imagebuilder.vm.session import Subject, session
from imagebuilder.vm.sightings import Sightings
from imagebuilder.vm.waiting import Patience

JUNIT, OUTPUT = "junit.xml", "output.txt"
JOB_ENDS_S = 60.0
"""Seconds that a job may take to end when it has told what it saw."""
TEST_S = 120.0
"""Seconds that a test may take on a machine with its own processor, its share of a boot included."""


class WrongTestsError(ImagebuilderError):
    """The tests that were asked for can't be read."""

    status = ExitStatus.WRONG_INPUT


@dataclass(frozen=True)
class Orders:
    """How the acceptance tests are to be run."""

    expression: str | None = None
    """Only tests that match, as pytest's -k has it."""
    roots: tuple[Path, ...] = (SCENARIOS,)
    """Folders of tests: ours, and the operator's own."""
    jobs: int = 1
    """Sessions side by side, each with a world and a pair of its own."""
    gentle: bool = False
    """Only tests that disturb nobody, as deployed hosts are in use."""
    reruns: int = 0
    """How often a test that failed is tried again."""
    until_failure: bool = False
    """Whether to go on, round after round, until a test fails."""
    denylist: Denylist | None = None
    pytest_arguments: tuple[str, ...] = ()
    durations: Mapping[str, float] = field(default_factory=dict)
    """Seconds that tests took before, to share them out evenly."""


@dataclass(frozen=True)
class Seen:
    """What one session saw, or several together."""

    tests: tuple[TestResult, ...]
    accelerator: str = ""
    """kvm or tcg; empty where nothing was booted here."""
    patience: float = 1.0
    boot: BootTimes | None = None
    """Of the first boot, by this run or the one that kept the pair; None when no test needed the pair."""
    boots: int = 0
    """How many boots this run needed."""
    restores_s: tuple[float, ...] = ()
    sightings: Sightings = field(default_factory=Sightings)
    rounds: int = 1
    stopped: bool = False
    """Whether the operator interrupted it."""
    here: tuple[str, ...] = ()
    """Addresses that deployed hosts saw this machine at; none for machines of the bed."""


@dataclass(frozen=True)
class Collected:
    """The tests that there are."""

    selected: tuple[str, ...]
    denied: tuple[TestResult, ...]
    deselected: tuple[str, ...]
    settled: frozenset[str] = frozenset()
    """Those that share a pair."""
    long: frozenset[str] = frozenset()
    """Those that take long."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every test, whether it is to run or not."""
        return (*self.selected, *(test.id for test in self.denied), *self.deselected)


def collect(orders: Orders) -> Collected:
    """Return which tests there are and which of them *orders* want; raise WrongTestsError when they can't be read."""
    ledger = Ledger(orders.roots, denylist=orders.denylist, gentle=orders.gentle)
    arguments = [*_arguments(orders.roots), "--collect-only", "-qq"]
    arguments += ["-k", orders.expression] if orders.expression else []
    with _swallowed() as said:
        status = pytest.main([*arguments, *map(str, orders.roots)], plugins=[ledger])
    if ledger.complaints:
        told = "".join(f"\n  {line}" for complaint in ledger.complaints for line in complaint.splitlines()[-6:])
        raise WrongTestsError(f"these tests can't be read:{told}", hint="python -m py_compile FILE names the place")
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        # The last line is pytest's own sentence, as for an expression that is none.
        raise WrongTestsError((said() or ["pytest can't read the tests"])[-1], hint='as in: -k "inbox or doors"')
    collected = Collected(ledger.selected, ledger.denied, ledger.deselected, ledger.settled, ledger.long)
    if orders.roots == (SCENARIOS,):
        return collected
    # A conftest.py of the operator's could take our scenarios out without a word; that is leaving out, too.
    hidden = set(collect(Orders(gentle=orders.gentle)).selected) - set(collected.all)
    return replace(collected, deselected=(*collected.deselected, *sorted(hidden)))


def run_scenarios(subject: Subject, orders: Orders, collected: Collected) -> Seen:
    """Run the *collected* tests on *subject* and return what was seen.

    Reports, consoles and journals stay in its folder; nothing else on this machine is changed.
    """
    found = portions(collected.selected, settled=collected.settled, long=collected.long, durations=orders.durations)
    if (jobs := min(orders.jobs, len(found))) > 1:
        return _side_by_side(subject, orders, jobs, found)
    # One session tells by pytest's own lines, which say more than ours.
    return inside(lambda: _one_session(subject, orders, collected.selected))


def run_deployed(deployment: Deployment, orders: Orders, collected: Collected) -> Seen:
    """Run the *collected* tests against the hosts of *deployment* and return what was seen.

    Reports stay in its folder, and nothing on the hosts.
    """
    with deployed(deployment) as hosts:
        ended = _rounds(deployment.folder, orders, collected.selected, Field(hosts), hosts.patience)
        return Seen(
            tests=ended.tests,
            patience=hosts.patience.factor,
            sightings=hosts.seen,
            stopped=ended.stopped,
            here=tuple(str(each) for each in (hosts.world.user.ipv4, hosts.world.user.ipv6) if each),
        )


def _one_session(
    subject: Subject,
    orders: Orders,
    selected: Sequence[str],
    take: Callable[[int], Portion | None] | None = None,
    announce: Callable[[TestResult], None] | None = None,
) -> Seen:
    with session(subject) as running:
        patience = running.accelerator.patience
        ended = _rounds(subject.folder, orders, selected, Bed(running), patience, take, announce)
        return Seen(
            tests=ended.tests,
            accelerator=str(running.accelerator.kind),
            patience=patience.factor,
            boot=running.times,
            boots=running.boots,
            restores_s=tuple(running.restores_s),
            sightings=running.seen,
            rounds=ended.rounds,
            stopped=ended.stopped,
        )


@dataclass(frozen=True)
class _Ended:
    """How pytest ended, of the last round."""

    tests: tuple[TestResult, ...]
    rounds: int
    stopped: bool


def _rounds(
    folder: Path,
    orders: Orders,
    selected: Sequence[str],
    cast: Cast,
    patience: Patience,
    take: Callable[[int], Portion | None] | None = None,
    announce: Callable[[TestResult], None] | None = None,
) -> _Ended:
    """Run the *selected* tests with the fixtures of *cast*; round after round, if that is ordered."""
    rounds, status, ledger = 0, pytest.ExitCode.OK, Ledger(orders.roots)
    while status == pytest.ExitCode.OK and (rounds == 0 or orders.until_failure):
        rounds += 1
        if orders.until_failure:
            say(f"round {rounds}")
        ledger = Ledger(orders.roots, only=frozenset(selected), announce=announce)
        plugins: list[object] = [cast, ledger]
        if take:
            plugins.append(Taker(partial(take, rounds), ledger.id_of))
        status = _one_round(folder / JUNIT, orders, plugins, patience.seconds(TEST_S))
    if not ledger.results and status != pytest.ExitCode.INTERRUPTED:
        raise ImagebuilderError(f"pytest ended with status {int(status)} before any test")
    return _Ended(ledger.results, rounds, status == pytest.ExitCode.INTERRUPTED)


def _one_round(junit: Path, orders: Orders, plugins: Sequence[object], limit_s: float) -> pytest.ExitCode:
    arguments = [*_arguments(orders.roots), f"--junit-xml={junit}", "-v", "--capture=tee-sys", "--tb=short"]
    arguments += ["--durations=0", "--durations-min=1", f"--timeout={limit_s:.0f}"]
    arguments += ["--reruns", str(orders.reruns)] if orders.reruns else []
    # Standard output is for the result of the command that called us.
    with redirect_stdout(sys.stderr):
        status = pytest.main([*arguments, *orders.pytest_arguments, *map(str, orders.roots)], plugins=list(plugins))
    return pytest.ExitCode(status)


def _arguments(roots: Sequence[Path]) -> list[str]:
    """Return what every call of pytest gets: nothing of where we happen to be started."""
    # A conftest.py above the operator's folder is somebody else's.
    cut = os.path.commonpath([str(root) for root in roots])
    return [
        "-c",
        str(SCENARIOS / "pytest.ini"),
        "--rootdir",
        str(SCENARIOS),
        "-p",
        "no:cacheprovider",
        f"--confcutdir={cut}",
    ]


# --- several sessions


def _side_by_side(subject: Subject, orders: Orders, jobs: int, found: Sequence[Portion]) -> Seen:
    """Run the portions *found* in *jobs* processes with a world and a pair each; return what they saw together."""
    folders = [subject.folder / f"job-{number}" for number in range(1, jobs + 1)]
    for folder in folders:
        folder.mkdir(parents=True)
        say(f"{folder.name}: told in {folder / OUTPUT}")
    forked = multiprocessing.get_context("fork")  # what is tested need not travel through a pipe
    counter = Counter(found, forked)
    under_way = []
    for folder in folders:
        answer, ours = forked.Pipe(duplex=False)
        process = forked.Process(
            target=_job,
            args=(replace(subject, folder=folder), orders, counter, folder is folders[0], ours),
            name=folder.name,
        )
        process.start()
        ours.close()
        under_way.append((process, answer))
    try:
        seen = [_answer(process.name, answer) for process, answer in under_way]
    finally:  # who has answered is about to end; who has not, as another job failed or the operator stops us, ends now
        for process, answer in under_way:
            process.join(JOB_ENDS_S if answer.closed else 0)
            process.kill()
            process.join(JOB_ENDS_S)
    _join_junit([folder / JUNIT for folder in folders], subject.folder / JUNIT)
    return together({folder.name: each for folder, each in zip(folders, seen, strict=True)})


def _job(subject: Subject, orders: Orders, counter: Counter, first: bool, answer: Connection) -> None:
    """Do one job in a process of its own, whose words go to a file, and send what it saw, or why it saw nothing."""
    die_with_parent()
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    with (subject.folder / OUTPUT).open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)

    def announce(test: TestResult) -> None:
        terminal.write(told(test, f"{subject.folder.name}: "))

    try:
        answer.send(
            inside(lambda: _one_session(subject, orders, counter.tests, partial(counter.take, first=first), announce))
        )
    except (ImagebuilderError, AssertionError) as error:
        answer.send(error)


def _answer(name: str, answer: Connection) -> Seen:
    """Return what the job *name* saw; raise ImagebuilderError when it could not do its part."""
    try:
        with answer:
            seen = answer.recv()
    except EOFError as error:
        raise ImagebuilderError(f"{name} ended without a word", hint=f"its {OUTPUT} may tell more") from error
    if not isinstance(seen, Seen):
        raise ImagebuilderError(f"{name}: {seen}")
    return seen


def together(parts: Mapping[str, Seen]) -> Seen:
    """Return what the sessions *parts*, by the names of their folders, saw together. Pure."""
    first, *_ = parts.values()
    sightings = Sightings()
    tests: list[TestResult] = []
    for folder, part in parts.items():
        for test in part.tests:
            tests.append(test.model_copy(update={"evidence": tuple(f"{folder}/{file}" for file in test.evidence)}))
        sightings.messages += part.sightings.messages
        sightings.doors += part.sightings.doors
        sightings.complaints += part.sightings.complaints
        sightings.charts = sightings.charts or part.sightings.charts
    return Seen(
        tests=tuple(tests),
        accelerator=first.accelerator,
        patience=max(part.patience for part in parts.values()),
        boot=next((part.boot for part in parts.values() if part.boot), None),
        boots=sum(part.boots for part in parts.values()),
        restores_s=tuple(seconds for part in parts.values() for seconds in part.restores_s),
        sightings=sightings,
        rounds=max(part.rounds for part in parts.values()),
        stopped=any(part.stopped for part in parts.values()),
    )


def _join_junit(parts: Sequence[Path], whole: Path) -> None:
    root = ElementTree.Element("testsuites")
    for part in parts:
        if part.exists():
            root.extend(ElementTree.parse(part).getroot())
    ElementTree.ElementTree(root).write(whole, encoding="utf-8", xml_declaration=True)


# --- telling


def told(test: TestResult, prefix: str = "") -> str:
    """Return a line about how *test* ended. Pure."""
    return f"{prefix}{test.outcome:7} {test.seconds:6.1f} s  {test.sentence}\n"


@contextmanager
def _swallowed() -> Iterator[Callable[[], list[str]]]:
    """Keep what is printed from the terminal, and give a way to look at its lines."""
    heard = io.StringIO()
    with redirect_stdout(heard), redirect_stderr(heard):
        yield lambda: [line for line in heard.getvalue().splitlines() if line.strip()]
