"""The pytest plugin: fixtures for the world, the machines and the people, and what a failure leaves behind."""

import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.session import Session
from imagebuilder.vm.world import World


class Bed:
    """Give *session* to the tests of one run, and count them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.outcomes: dict[str, str] = {}
        """Last word on each test: passed, failed or skipped."""

    @pytest.fixture
    def bed(self) -> Session:
        """The running bed itself, for tests that boot in a way of their own."""
        return self.session

    @pytest.fixture
    def world(self) -> World:
        """The networks and hosts around the machines."""
        return self.session.world

    @pytest.fixture
    def topology(self) -> Topology:
        """The topology under test."""
        return self.session.subject.topology

    @pytest.fixture
    def pair(self) -> Iterator[Pair]:
        """Both machines, as fresh as when mail first flowed."""
        yield self.session.fresh()

    @pytest.fixture
    def proxy(self, pair: Pair) -> Machine:
        """The machine on the Internet."""
        return pair.proxy

    @pytest.fixture
    def client(self, pair: Pair) -> Machine:
        """The machine at home."""
        return pair.client

    @pytest.fixture
    def stranger(self, pair: Pair) -> Stranger:
        """Somebody elsewhere with a mail server of his own."""
        return self.session.stranger()

    @pytest.fixture
    def alice(self, pair: Pair) -> Person:
        """The owner of the topology's first mailbox, abroad."""
        return self.session.person(0)

    @pytest.fixture
    def bob(self, pair: Pair) -> Person:
        """The owner of the second mailbox, abroad too."""
        if self.session.persons() < 2:
            pytest.skip("the topology has one mailbox only")
        return self.session.person(1)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach console and journal of each machine to a failure, and keep them."""
        report = yield
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[item.nodeid] = report.outcome
        if report.failed and self.session.pair is not None:
            for machine in self.session.pair.machines.values():
                report.sections.append((f"machine {machine.name}", machine.report()))
            self._keep(item.name)
        return report

    def _keep(self, test: str) -> None:
        folder = self.session.reports / "failures" / re.sub(r"[^\w.-]+", "-", test)
        folder.mkdir(parents=True, exist_ok=True)
        assert self.session.pair is not None
        for machine in self.session.pair.machines.values():
            for file in (machine.console_file, machine.journal_file, machine.messages_file):
                if file.exists():
                    shutil.copyfile(file, folder / file.name)
        (folder / "stranger.postfix.txt").write_text(self.session.server.log())


SCENARIOS = Path(__file__).parent / "scenarios"
"""The acceptance tests that ship with the package."""
