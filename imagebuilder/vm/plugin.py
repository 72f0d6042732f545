"""The pytest plugin: fixtures for the world, the machines and the people, and what a failure leaves behind."""

import os
import re
import shutil
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from pdb import Pdb

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import say
from imagebuilder.topology import PublicKeys, Role, Topology
from imagebuilder.vm.boot_chart import boot_chart_of
from imagebuilder.vm.complaints import Consoles
from imagebuilder.vm.deployed import Deployed, Residents
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.ledger import EVIDENCE, FAULT, SETTLED
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.outside import command_environment
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.prompt import Prompt
from imagebuilder.vm.qemu import Acceleration
from imagebuilder.vm.qmp import QmpError
from imagebuilder.vm.session import Session, machines_off
from imagebuilder.vm.sightings import Doors
from imagebuilder.vm.surroundings import Machines, Outside

KNOWN_PORTS, KNOCKS_PER_S = range(1, 1024), (500, 500)
"""Those that programs of the system may serve (RFC 6335 section 6), and at which rates to try them out there."""


class Cast:
    """Who and what appears in every test, in the bed and against deployed hosts."""

    session: Session | Deployed

    @pytest.fixture
    def world(self) -> Outside:
        """The Internet; in the bed, all networks and hosts around the machines."""
        return self.session.world

    @pytest.fixture
    def topology(self) -> Topology:
        """The topology under test."""
        return self.session.subject.topology

    @pytest.fixture
    def public(self) -> PublicKeys:
        """The public keys that are in the images."""
        return self.session.subject.public

    @pytest.fixture
    def proxy(self, pair: Machines) -> Inside:
        """The machine on the Internet."""
        return pair.proxy

    @pytest.fixture
    def client(self, pair: Machines) -> Inside:
        """The machine at home."""
        return pair.client

    @pytest.fixture
    def alice(self, pair: Machines) -> Person:
        """The owner of the topology's first mailbox, or a guest where that is really somebody's; abroad."""
        return replace(self.session.person(0), missing=partial(machines_off, pair, *Role))

    @pytest.fixture
    def bob(self, pair: Machines) -> Person:
        """The owner of the second mailbox, abroad too; a guest where the topology has one only."""
        return replace(self.session.person(1), missing=partial(machines_off, pair, *Role))

    @pytest.fixture
    def stranger(self, pair: Machines) -> Stranger:
        """Somebody elsewhere with a mail server of his own."""
        if (stranger := self.session.stranger()) is None:
            pytest.skip("this machine is no mail server: --as DOMAIN says whose it is")
        # What the proxy has it sends by itself, and it answers strangers without the client.
        return replace(stranger, missing=partial(machines_off, pair, Role.PROXY))

    @pytest.fixture
    def nobody(self) -> str:
        """An address in a domain of the topology that nobody has, and no catch-all takes."""
        for domain in self.session.subject.topology.mail.domains:
            if not domain.catch_all:
                return f"nobody-of-that-name@{domain.name}"
        pytest.skip("every domain of the topology has a catch-all")


class Field(Cast):
    """Give the deployed hosts of *session* to the tests of one run."""

    def __init__(self, session: Deployed) -> None:
        self.session: Deployed = session

    @pytest.fixture(autouse=True)
    def name_of_test(self, request: pytest.FixtureRequest) -> None:
        """Note which test sees what."""
        self.session.seen.test = str(request.node.name)

    @pytest.fixture
    def pair(self) -> Residents:
        """Both hosts, as they are."""
        return self.session.pair

    @pytest.fixture
    def doors(self) -> Doors:
        """Knocks at the ports of servers, slowly: routers on the way remember every knock."""
        if os.geteuid():
            pytest.skip("only root knocks at doors, by packets of his own")
        return Doors(self.session.seen, self.session.world.lost_packets, KNOWN_PORTS, KNOCKS_PER_S)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the end of each journal to a failure."""
        report = yield
        if report.failed:
            for name, journal in self.session.journals().items():
                report.sections.append((f"journal of {name}", journal))
        return report


class Bed(Cast):
    """Give *session* to the tests of one run."""

    def __init__(self, session: Session) -> None:
        self.session: Session = session
        emulated = session.accelerator.kind is Acceleration.TCG
        self._consoles = Consoles(session.reports, emulated=emulated)

    @pytest.fixture(autouse=True)
    def quiet_consoles(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Fail a test during which a machine complained on its console."""
        self.session.seen.test = str(request.node.name)
        yield
        marker = request.node.get_closest_marker("complaints")
        expected = tuple(map(str, marker.args)) if marker else ()
        new = self._consoles.new_complaints(str(request.node.name), expected)
        self.session.seen.complaints += new
        if counted := [complaint for complaint in new if complaint.counted]:
            lines = "".join(f"\n  {each.machine}: {each.kind}: {each.line}" for each in counted)
            pytest.fail(f"a machine complained on its console:{lines}")

    @pytest.fixture
    def bed(self) -> Session:
        """The running bed itself, for tests that boot in a way of their own."""
        return self.session

    @pytest.fixture
    def pair(self, request: pytest.FixtureRequest) -> Iterator[Pair]:
        """Both machines, as fresh as when mail first flowed; a test marked as settled may share them with others."""
        shared = request.node.get_closest_marker(SETTLED) is not None
        pair = self.session.settled() if shared else self.session.fresh()
        if not self.session.seen.charts:
            self.session.seen.charts = {role: boot_chart_of(machine) for role, machine in pair.machines.items()}
        for machine in pair.machines.values():
            self._capture(machine)
        yield pair
        self.session.mend()

    @pytest.fixture
    def doors(self) -> Doors:
        """Knocks at ports."""
        return Doors(self.session.seen, self.session.world.lost_packets)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach console and journal of each machine to a failure, and keep them."""
        report = yield
        if not report.failed:
            return report
        self.session.stir()
        if call.excinfo is not None and isinstance(call.excinfo.value, ImagebuilderError):
            report.user_properties.append((FAULT, "bed"))
        if self.session.pair is None:  # it did not boot, and its console stands in the run's own folder
            for file in sorted(self.session.reports.glob("*.txt")):
                report.user_properties.append((EVIDENCE, file.name))
        else:
            for machine in self.session.pair.machines.values():
                report.sections.append((f"machine {machine.name}", machine.report()))
            for kept in self._keep(item.name):
                report.user_properties.append((EVIDENCE, kept))
        return report

    @pytest.hookimpl
    def pytest_enter_pdb(self, pdb: Pdb) -> None:
        """With --pdb, give the debugger a command `bed` that opens the prompt of the pair, which is still on."""
        pair = self.session.pair
        if pair is None:
            return

        def opened(_: str) -> None:
            Prompt(self.session, pair, command_environment(self.session, self.session.world.stranger)).cmdloop()

        vars(pdb)["do_bed"] = opened
        say("the machines are as the test left them: `bed` opens their prompt, `continue` goes on with the next test")

    def _capture(self, machine: Machine) -> None:
        """Write the packets of this test down, over those of the one before; a failure keeps them."""
        try:
            machine.keep_packets(self._packets(machine))
        except QmpError as error:  # a help for whoever looks at a failure, and no reason for one
            say(f"no packets of {machine.name} are kept: {error}")

    def _packets(self, machine: Machine) -> Path:
        return self.session.reports / f"{machine.name}.pcap"

    def _keep(self, test: str) -> Iterator[str]:
        """Copy what tells of a failure, and yield each copy's place in the folder of this run."""
        folder = self.session.reports / "failures" / re.sub(r"[^\w.-]+", "-", test)
        folder.mkdir(parents=True, exist_ok=True)
        assert self.session.pair is not None
        for machine in self.session.pair.machines.values():
            for file in (machine.console_file, machine.journal_file, machine.messages_file, self._packets(machine)):
                if file.exists() and file.stat().st_size:
                    shutil.copyfile(file, folder / file.name)
                    yield str((folder / file.name).relative_to(self.session.reports))
        (folder / "stranger.postfix.txt").write_text(self.session.server.log())
        yield str((folder / "stranger.postfix.txt").relative_to(self.session.reports))


SCENARIOS = Path(__file__).parent / "scenarios"
"""The acceptance tests that ship with the package."""
