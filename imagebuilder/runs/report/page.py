"""The page itself: what the template may refer to, and filling it in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from imagebuilder.runs.record import Outcome, Record
from imagebuilder.runs.report.charts import (
    Boot,
    DoorRow,
    TestRow,
    Way,
    boot,
    door_columns,
    door_row,
    rows_of_tests,
    way,
)
from imagebuilder.runs.report.picture import Picture, narrow, wide

FOLDER = Path(__file__).parent
MIB = 2**20


@dataclass(frozen=True)
class Fact:
    """Something told in a word or two."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class PageValues:
    """What page.html.j2 may refer to."""

    record: Record
    style: Markup
    headline: str
    why: tuple[str, ...]
    """Why the run is not complete."""
    counts: tuple[tuple[Outcome, int], ...]
    facts: tuple[Fact, ...]
    digests: tuple[Fact, ...]
    pictures: Mapping[str, Picture]
    """wide and narrow."""
    ways: tuple[Way, ...]
    boots: tuple[Boot, ...]
    ports: tuple[int, ...]
    doors: tuple[DoorRow, ...]
    tests: Mapping[str, tuple[TestRow, ...]]
    failures: tuple[TestRow, ...]
    compared: int
    """How many earlier runs the durations are compared with."""
    links: tuple[str, ...]
    """Further files of the run."""


def page(record: Record, earlier: Sequence[Record] = (), links: Sequence[str] = ()) -> str:
    """Return the report of *record* as HTML, beside *earlier* runs of the same topology, the oldest first.

    *links* are files in the run's folder, which is where the page belongs.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values = page_values(record, earlier, links)
    return environment.get_template("page.html.j2").render(vars(values)) + "\n"


def page_values(record: Record, earlier: Sequence[Record], links: Sequence[str]) -> PageValues:
    """Return what the page of *record* shows."""
    tests = rows_of_tests(record, earlier)
    columns = door_columns(record.doors)
    return PageValues(
        record=record,
        style=Markup((FOLDER / "style.css").read_text()),
        headline=headline(record),
        why=record.left_out,
        counts=tuple((outcome, record.counts[outcome]) for outcome in Outcome if record.counts[outcome]),
        facts=tuple(_facts(record)),
        digests=tuple(_digests(record)),
        pictures={"wide": wide(record.scene), "narrow": narrow(record.scene)},
        ways=tuple(way(message, record) for message in record.messages),
        boots=tuple(boot(role, chart) for role, chart in record.charts.items()),
        ports=columns,
        doors=tuple(door_row(check, columns) for check in record.doors),
        tests=tests,
        failures=tuple(row for rows in tests.values() for row in rows if row.test.outcome is Outcome.FAILED),
        compared=len(earlier),
        links=tuple(links),
    )


def headline(record: Record) -> str:
    """Return the verdict as a sentence."""
    ran = sum(record.counts[outcome] for outcome in (Outcome.PASSED, Outcome.FLAKY, Outcome.FAILED))
    tests = "1 test" if ran == 1 else f"{ran} tests"
    if failed := record.counts[Outcome.FAILED]:
        return f"{failed} of {tests} failed"
    return f"{'the only test' if ran == 1 else f'all {tests}'} passed" if ran else "no test ran"


def _facts(record: Record) -> list[Fact]:
    runner = {"kvm": "KVM", "tcg": "emulation"}.get(record.accelerator, record.accelerator)
    if record.deployed:
        runner = "their owners"
    facts = [
        Fact("started", f"{record.started:%d %B %Y, %H:%M} UTC"),
        Fact("took", _duration(record.seconds)),
        Fact("machines run by", runner, f"waits are {record.patience:.0f} times the natural ones"),
    ]
    if record.mail_ready_s is not None:
        facts.append(Fact("boot until mail flowed", f"{record.mail_ready_s:.1f} s"))
    if record.restores_s:
        note = f"{len(record.restores_s)} of them"
        facts.append(Fact("fresh pair restored in", f"{median(record.restores_s):.1f} s", note))
    if record.generation is not None:
        facts.append(Fact("generation", str(record.generation)))
    return [*facts, Fact("imagebuilder", record.version)]


def _digests(record: Record) -> list[Fact]:
    digests = []
    for role, image in record.images.items():
        digests.append(Fact(f"{role} image", image.sha256, f"SHA-256, {image.size_bytes / MIB:,.0f} MiB"))
        digests.append(Fact(f"{role} root", image.root_hash, "dm-verity root hash"))
    digests.append(Fact("lock", record.lock_sha256, "SHA-256"))
    return [*digests, Fact(record.topology, record.topology_sha256, "SHA-256")]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
