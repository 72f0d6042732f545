"""What is known of one run of the acceptance tests, as it is kept in JSON beside the JUnit file. Pure."""

from collections import Counter
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from imagebuilder.topology import Role

FORMAT = 1
"""Raised when records of this version can't be read by the one before."""


class Part(BaseModel):
    """A part of a record: read-only, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(StrEnum):
    """How one test ended."""

    PASSED = "passed"
    FLAKY = "flaky"
    """Failed first and passed when run again."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It said itself that it does not apply to this topology."""
    DENIED = "denied"
    """The operator's denylist kept it from running."""


class Verdict(StrEnum):
    """How the whole run ended."""

    PASSED = "passed"
    """Every test there is ran, and none failed."""
    PARTIAL = "partial"
    """What ran passed, but the operator left something out."""
    FAILED = "failed"


class ImageFacts(Part):
    """An image that was tested."""

    sha256: str
    size_bytes: int
    root_hash: str


class Scene(Part):
    """The topology as far as a picture of it needs it."""

    proxy: str
    """Host name."""
    proxy_addresses: tuple[str, ...]
    client: str
    """Host name."""
    client_address: str
    tunnel_network: str
    tunnel_proxy: str
    """The proxy's address inside."""
    tunnel_client: str
    tunnel_port: int
    domains: tuple[str, ...]
    mailboxes: int
    open_ports: tuple[int, ...]
    """TCP ports of the proxy that the Internet is to see."""
    stranger: tuple[str, ...] = ()
    """Addresses of the stranger's host."""
    user: tuple[str, ...] = ()
    """Addresses of the roaming user's host."""
    home: str = ""
    """Public address of the line at home."""


class UnitStart(Part):
    """A systemd unit that took part in a boot; seconds since the kernel began."""

    name: str
    began_s: float
    ready_s: float


class BootChart(Part):
    """How one machine booted; seconds since the kernel began, but for the firmware before it."""

    firmware_s: float
    """Seconds in firmware and boot loader, before the kernel; 0 when the machine does not tell."""
    initrd_s: float
    userspace_s: float
    finished_s: float
    units: tuple[UnitStart, ...]
    """Those that took any time, the first to begin first."""


class Hop(Part):
    """One station of a message, as its Received field tells it."""

    by: str
    """Name of the station."""
    software: str = ""
    from_name: str = ""
    """What the sender called itself."""
    from_address: str = ""
    protocol: str = ""
    """As in RFC 3848: ESMTPSA means with TLS and a login."""
    tls: str = ""
    """Version and cipher; empty when it was plain, or the station does not tell."""
    login: str = ""
    """Who had logged in; from the station's log."""
    at: datetime | None = None
    text: str
    """The field as it stands."""


class Authentication(Part):
    """What a receiver made of a message: a method of RFC 8601 and its result."""

    method: str
    result: str
    detail: str = ""
    by: str = ""
    """Who judged."""


class Message(Part):
    """A message that arrived, and its way."""

    test: str = ""
    """Name of the test that it belongs to."""
    subject: str
    sender: str
    recipient: str
    seconds: float
    """From its Date to its arrival."""
    hops: tuple[Hop, ...]
    """The first hop first."""
    authentication: tuple[Authentication, ...] = ()


class DoorCheck(Part):
    """What a host was let see of an address."""

    origin: str
    """The host that knocked."""
    target: str
    """The address knocked at."""
    protocol: str
    """tcp or udp."""
    knocked: int
    """How many ports were tried."""
    expected: tuple[int, ...]
    seen: tuple[int, ...]

    @property
    def right(self) -> bool:
        """Whether exactly the expected ports answered."""
        return self.expected == self.seen


class Complaint(Part):
    """A line of a console that a healthy machine does not write."""

    machine: str
    kind: str
    line: str
    test: str
    """During which test."""
    counted: bool
    """Whether it fails the test."""


class TestResult(Part):
    """How one test went."""

    __test__ = False  # not a class of tests, for pytest

    id: str
    """File and name, as in "scenarios/test_mail.py::test_mail_from_a_stranger_reaches_the_inbox"."""
    outcome: Outcome
    seconds: float
    """Of its last try, with what it needed before and after."""
    tries: int = 1
    reason: str = ""
    """Why it failed, was skipped or denied; for a flaky one, of the try that failed."""
    fault: bool = False
    """Whether the test bed failed, and not what was expected of the images."""
    tracker: str = ""
    """Where a denied test's trouble is followed up."""
    evidence: tuple[str, ...] = ()
    """Files about the failure, relative to the run's folder."""

    @property
    def sentence(self) -> str:
        """Its name as prose."""
        return sentence_of(self.id)

    @property
    def group(self) -> str:
        """The file it stands in, as a heading."""
        return group_of(self.id)


def sentence_of(test: str) -> str:
    """Return the name of *test*, an id, as prose."""
    name, _, parameters = test.rpartition("::")[2].partition("[")
    words = name.removeprefix("test_").replace("_", " ")
    return f"{words} ({parameters.removesuffix(']')})" if parameters else words


def group_of(test: str) -> str:
    """Return the file that *test*, an id, stands in, as a heading."""
    stem = test.partition("::")[0].rpartition("/")[2].removesuffix(".py")
    return stem.removeprefix("test_").replace("_", " ")


class Record(Part):
    """One run of the acceptance tests."""

    format: int = FORMAT
    run: str
    """Name of its folder."""
    started: datetime
    seconds: float
    version: str
    """Of imagebuilder."""
    topology: str
    """Name of the file."""
    topology_key: str
    """The same for all runs of one topology file."""
    topology_sha256: str
    lock_sha256: str
    images: dict[Role, ImageFacts]
    generation: int | None = None
    accelerator: str
    """kvm or tcg; empty for deployed hosts."""
    patience: float
    """Factor by which waits were stretched."""
    deployed: bool = False
    """Whether these were hosts in use, and no machines of the bed."""
    expression: str = ""
    """Only tests that match it were run; empty: all."""
    deselected: int = 0
    """How many were left out by the operator."""
    never_ran: tuple[str, ...] = ()
    """Tests that were to run when the run was stopped."""
    scene: Scene
    hello_s: dict[Role, float] = {}
    """Seconds from power-on to the root shell; empty when no pair was booted in this run."""
    settled_s: dict[Role, float] = {}
    mail_ready_s: float | None = None
    restores_s: tuple[float, ...] = ()
    charts: dict[Role, BootChart] = {}
    messages: tuple[Message, ...] = ()
    doors: tuple[DoorCheck, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    tests: tuple[TestResult, ...]
    notes: tuple[str, ...] = ()
    """What else a reader should know."""

    @property
    def counts(self) -> Counter[Outcome]:
        """How many tests ended how."""
        return Counter(test.outcome for test in self.tests)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return why the run is not complete, a reason each; empty when it is."""
        reasons = [f"only tests matching {self.expression!r} were asked for"] if self.expression else []
        if self.deployed:
            reasons.append("these were deployed hosts, which are spared most tests")
        if self.deselected:
            reasons.append(f"{_tests(self.deselected)} left out")
        if denied := self.counts[Outcome.DENIED]:
            reasons.append(f"{_tests(denied)} on the denylist")
        if self.never_ran:
            reasons.append(f"{_tests(len(self.never_ran))} had not run when it was stopped")
        if not any(self.counts[outcome] for outcome in (Outcome.PASSED, Outcome.FLAKY, Outcome.FAILED)):
            reasons.append("no test ran")
        return tuple(reasons)

    @property
    def verdict(self) -> Verdict:
        """How the whole run ended."""
        if self.counts[Outcome.FAILED]:
            return Verdict.FAILED
        return Verdict.PARTIAL if self.left_out else Verdict.PASSED


def _tests(number: int) -> str:
    return "1 test" if number == 1 else f"{number} tests"
