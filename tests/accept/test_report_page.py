"""A real browser looks at the report: nothing wrong, nothing cut off, legible on a screen and on a telephone, light and
dark."""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.runs.record import (
    Authentication,
    BootChart,
    Complaint,
    DoorCheck,
    Message,
    Outcome,
    Record,
    TestResult,
    UnitStart,
)
from imagebuilder.runs.report import page
from imagebuilder.topology import Role
from imagebuilder.vm.trace import hop
from tests.unit.records import record
from tests.unit.test_vm_trace import BY_HARAKA, BY_POSTFIX

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
WIDTHS, SCHEMES = (1280, 400), ("light", "dark")
SMALLEST_PX = 12
"""Smaller text is not called legible."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser of this machine; without one these tests are skipped, which in CI is a failure."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"none of {', '.join(BROWSERS)} is on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root Chromium refuses its own sandbox; the page is ours, and it is let load nothing.
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


def full_record() -> Record:
    """Return a record with one of everything, some of it awkwardly long."""
    started = datetime(2026, 11, 22, 21, 42, tzinfo=UTC)
    results = (
        TestResult(
            id="scenarios/test_mail.py::test_mail_from_a_stranger_reaches_the_inbox", outcome=Outcome.PASSED, seconds=20
        ),
        TestResult(
            id="scenarios/test_doors.py::test_from_the_internet_exactly_the_tables_ports_answer_by_ipv4",
            outcome=Outcome.FAILED,
            seconds=9,
            evidence=("failures/x/proxy.console.txt",),
            reason="AssertionError: assert {22, 8080} == {22}\n" + "x" * 300,
        ),
        TestResult(
            id="scenarios/test_doors.py::test_b[proxy]", outcome=Outcome.FLAKY, seconds=3, tries=2, reason="late"
        ),
        TestResult(id="scenarios/test_doors.py::test_c", outcome=Outcome.SKIPPED, seconds=0, reason="no IPv6"),
        TestResult(
            id="tests/test_own.py::test_d",
            outcome=Outcome.DENIED,
            seconds=0,
            reason="denied until 2026-12-01.",
            tracker="https://tracker.example/" + "7" * 80,
        ),
    )
    units = [
        UnitStart(name=f"a-unit-with-a-rather-long-name-{n}.service", began_s=4 + n, ready_s=5 + n * 1.5)
        for n in range(12)
    ]
    units.append(UnitStart(name="multi-user.target", began_s=24, ready_s=24))
    chart = BootChart(firmware_s=3, initrd_s=1, userspace_s=4, finished_s=25, units=tuple(units))
    return record(
        started=started + timedelta(hours=1),
        tests=results,
        charts={Role.PROXY: chart, Role.CLIENT: chart},
        settled_s={Role.PROXY: 60.0, Role.CLIENT: 70.0},
        mail_ready_s=90.0,
        restores_s=(1.5, 2.0),
        generation=4,
        messages=(
            Message(
                test="test_mail_from_a_stranger_reaches_the_inbox",
                subject="a subject " * 12,
                sender="someone@stranger.example",
                recipient=f"{'a' * 60}@example.org",
                seconds=2.5,
                hops=(hop(BY_HARAKA), hop(BY_POSTFIX), hop("nonsense")),
                authentication=(
                    Authentication(method="spf", result="pass", by="mx.stranger.example"),
                    Authentication(method="dkim", result="fail", detail="header.d=example.org"),
                    Authentication(method="dmarc", result="none"),
                ),
            ),
        ),
        doors=(
            DoorCheck(
                origin="stranger",
                target="198.18.0.10",
                protocol="tcp",
                knocked=65535,
                expected=(22, 25, 443),
                seen=(22, 25, 8080),
            ),
            DoorCheck(
                origin="stranger",
                target="2001:2:0:1:ffff:ffff:ffff:10",
                protocol="udp",
                knocked=20,
                expected=(),
                seen=(),
            ),
        ),
        complaints=(
            Complaint(machine="proxy", kind="kernel bug", line="WARNING: CPU: " + "1" * 200, test="t", counted=True),
        ),
        notes=("the outcomes are those of round 3, the last one",),
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    earlier = [record(tests=full_record().tests) for _ in range(3)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(full_record(), earlier, ["junit.xml", "run.json"]))
    return path


@pytest.fixture(
    params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=lambda way: f"{way[0]}-{way[1]}"
)
def shown(request: pytest.FixtureRequest, browser: Any, file: Path) -> Iterator[Any]:  # noqa: ANN401 (playwright's)
    """The page as it is shown, with a note of what the browser complained of and of what it asked for."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    sheet = context.new_page()
    sheet.complaints, sheet.asked = [], []
    sheet.on("console", lambda message: sheet.complaints.append(message.text))
    sheet.on("pageerror", lambda error: sheet.complaints.append(str(error)))
    sheet.on("request", lambda asked: sheet.asked.append(asked.url))
    sheet.goto(file.as_uri())
    sheet.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    yield sheet
    context.close()


def test_the_browser_has_nothing_to_complain_of_and_loads_nothing_else(shown: Any, file: Path) -> None:  # noqa: ANN401
    assert shown.complaints == []
    assert [url for url in shown.asked if not url.startswith("data:")] == [file.as_uri()]


def test_nothing_stands_out_of_the_page(shown: Any) -> None:  # noqa: ANN401
    seen, wide = shown.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")

    assert seen <= wide


def test_every_text_stays_within_its_section(shown: Any) -> None:  # noqa: ANN401
    outside = shown.evaluate(
        """() => [...document.querySelectorAll('section *')].filter(each => {
            if (![...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())) return false;
            if (each.closest('.spoken, title, marker, .scroll')) return false;
            const frame = each.closest('section').getBoundingClientRect(), own = each.getBoundingClientRect();
            return own.width && (own.left < frame.left || own.right > frame.right);
        }).map(each => each.tagName + ': ' + each.textContent.trim())"""
    )

    assert outside == []


def test_a_run_that_ended_before_it_saw_anything_has_a_page_too(browser: Any, tmp_path: Path) -> None:  # noqa: ANN401
    path, complaints = tmp_path / "report.html", []
    path.write_text(page(record(tests=(), never_ran=("scenarios/test_a.py::test_a",), mail_ready_s=None), [], []))
    sheet = browser.new_page(viewport={"width": 400, "height": 900})
    sheet.on("console", lambda message: complaints.append(message.text))
    sheet.on("pageerror", lambda error: complaints.append(str(error)))
    sheet.goto(path.as_uri())
    text = " ".join(sheet.inner_text("body").split())
    sheet.close()

    assert complaints == []
    assert "1 test had not run when it was stopped" in text


def test_no_text_is_too_small_or_cut_off(shown: Any) -> None:  # noqa: ANN401
    """Text of drawings is measured as it is shown, not as it is declared."""
    small = shown.evaluate(
        """least => [...document.querySelectorAll('body *')].filter(each => {
            if (![...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())) return false;
            if (each.closest('.spoken, title, marker') || !each.getClientRects().length) return false;
            const drawn = each instanceof SVGElement ? each.ownerSVGElement.getScreenCTM().a : 1;
            return parseFloat(getComputedStyle(each).fontSize) * drawn < least;
        }).map(each => each.tagName + ': ' + each.textContent.trim())""",
        SMALLEST_PX,
    )
    outside = shown.evaluate(
        """() => [...document.querySelectorAll('svg.picture text')].filter(text => {
            const frame = text.ownerSVGElement.getBoundingClientRect(), own = text.getBoundingClientRect();
            return own.width && (own.left < frame.left - 1 || own.right > frame.right + 1);
        }).map(text => text.textContent)"""
    )

    assert small == []
    assert outside == []


def test_it_is_accessible_and_every_text_stands_out_from_its_ground(shown: Any) -> None:  # noqa: ANN401
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    results = Axe().run(shown)

    assert results.violations_count == 0, results.generate_report()
    assert any(rule["id"] == "color-contrast" for rule in results.response["passes"])


def test_the_page_tells_what_the_record_has(shown: Any) -> None:  # noqa: ANN401
    text = " ".join(shown.inner_text("body").split())

    for told in ("1 of 3 tests failed", "a" * 64, "198.19.1.25", "TLSv1.3", "dkim fail", "8080", "90.0 s", "late"):
        assert told in text, told
    assert shown.get_attribute(".failure .files a", "href") == "failures/x/proxy.console.txt"
    assert shown.locator("svg.picture:visible").count() == 1


def test_two_schemes_look_different(browser: Any, file: Path) -> None:  # noqa: ANN401
    grounds = set()
    for scheme in SCHEMES:
        sheet = browser.new_page(color_scheme=scheme)
        sheet.goto(file.as_uri())
        grounds.add(sheet.evaluate("getComputedStyle(document.body).backgroundColor"))
        sheet.close()

    assert len(grounds) == 2
