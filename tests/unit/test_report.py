"""What a page says in words and places, and the commands that list runs."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagebuilder.cli import main
from imagebuilder.runs.history import RECORD, History
from imagebuilder.runs.record import DoorCheck, Outcome, TestResult, UnitStart
from imagebuilder.runs.report import page
from imagebuilder.runs.report.charts import boot, door_columns, door_row, rows_of_tests
from imagebuilder.runs.report.page import headline
from imagebuilder.runs.report.picture import narrow, shortened, wide
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role, load_topology
from imagebuilder.vm.boot_chart import boot_chart
from imagebuilder.vm.recording import scene
from tests.unit.records import REFERENCE, record
from tests.unit.test_vm_trace import SYSTEMD


def result(name: str, seconds: float, outcome: Outcome = Outcome.PASSED) -> TestResult:
    return TestResult(id=f"scenarios/test_a.py::{name}", outcome=outcome, seconds=seconds)


def test_what_a_mail_or_a_test_says_can_not_become_markup() -> None:
    hostile = "<script>alert(1)</script>"
    text = page(record(tests=(TestResult(id="a::b", outcome=Outcome.FAILED, seconds=1, reason=hostile),)))

    assert hostile not in text
    assert "&lt;script&gt;" in text


def test_the_page_needs_no_other_file() -> None:
    text = page(record())

    assert "<script" not in text
    assert "http" not in text
    assert "url(#" in text


def test_the_page_of_deployed_hosts_shows_where_they_were_called_from_and_that_it_is_not_the_whole() -> None:
    called = scene(load_topology(REFERENCE), ("203.0.113.9",))
    text = page(record(deployed=True, accelerator="", scene=called))

    assert "203.0.113.9" in text
    assert "these were deployed hosts" in text
    assert "partial" in text
    assert "outside as" not in text


def test_the_headline_is_a_sentence() -> None:
    assert headline(record(tests=(result("a", 1),))) == "the only test passed"
    assert headline(record(tests=(result("a", 1), result("b", 1)))) == "all 2 tests passed"
    assert headline(record(tests=(result("a", 1), result("b", 1, Outcome.FAILED)))) == "1 of 2 tests failed"
    assert headline(record(tests=(result("a", 1, Outcome.SKIPPED),))) == "no test ran"


def test_a_test_is_called_slower_only_when_it_clearly_is() -> None:
    earlier = [record(tests=(result("a", seconds), result("b", 0.1))) for seconds in (10.0, 11.0, 9.0)]
    (slow, small) = rows_of_tests(record(tests=(result("a", 30.0), result("b", 0.9))), earlier)["a"]

    assert (slow.slower, slow.words) == (True, "usually 10.0 s")
    assert [bar.words for bar in slow.earlier] == ["10.0 s", "11.0 s", "9.0 s", "30.0 s"]
    assert not small.slower


def test_a_door_is_right_missing_or_an_intruder() -> None:
    check = DoorCheck(origin="stranger", target="x", protocol="tcp", knocked=9, expected=(22, 25), seen=(22, 8080))
    quiet = DoorCheck(origin="lan", target="y", protocol="udp", knocked=9, expected=(), seen=())
    columns = door_columns([check, quiet])

    assert columns == (22, 25, 8080)
    assert [kind for kind, _ in door_row(check, columns).cells] == ["open", "missing", "intruder"]
    assert {kind for kind, _ in door_row(quiet, columns).cells} == {"closed"}
    assert not check.right


def test_bars_of_a_boot_lie_within_it() -> None:
    drawn = boot(Role.PROXY, boot_chart(SYSTEMD))

    assert all(0 <= bar.left <= 100 and bar.left + bar.width <= 101 for bar in drawn.units)
    assert [bar.name for bar in drawn.phases] == ["kernel", "initrd", "system"]
    assert sum(bar.width for bar in drawn.phases) == pytest.approx(100, abs=1)


def test_a_boot_without_an_end_is_no_division_by_zero() -> None:
    chart = boot_chart("\n\n").model_copy(update={"units": (UnitStart(name="a", began_s=0, ready_s=0),)})

    assert boot(Role.CLIENT, chart).units[0].width >= 0


def test_every_name_of_the_topology_is_in_its_picture() -> None:
    scene = record().scene
    for picture in (wide(scene), narrow(scene)):
        text = " ".join(label.text for label in picture.labels)
        for told in (scene.proxy, scene.client, *scene.proxy_addresses, scene.tunnel_client, "51820"):
            assert told in text
        assert all(0 <= label.x <= picture.width and 0 <= label.y <= picture.height for label in picture.labels)


def test_a_long_name_loses_its_middle() -> None:
    assert shortened("mail.example.org", 40) == "mail.example.org"
    assert shortened("mail.a-very-long-name.example.org", 15) == "mail.a-…ple.org"


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    history = History(Store(tmp_path / "store"))
    for second in range(2):
        folder = history.folder / f"2026-11-22T10-00-0{second}"
        folder.mkdir(parents=True)
        history.keep(record(run=folder.name, started=datetime(2026, 11, 22, 10, 0, second, tzinfo=UTC)), folder)
    return history


def test_past_runs_are_listed(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["2026-11-22T10-00-00", "passed"],
        ["2026-11-22T10-00-01", "passed"],
    ]

    assert main(["report", "--all", "--json"]) == 0
    assert [run["verdict"] for run in json.loads(capsys.readouterr().out)] == ["passed", "passed"]


def test_runs_of_another_topology_are_not_listed_unasked(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "imagebuilder test" in err


def test_a_runs_page_is_made_and_its_place_is_the_result(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "2026-11-22T10-00-01"]) == 0
    place = Path(capsys.readouterr().out.strip())

    assert place.parent.name == "2026-11-22T10-00-01"
    assert "<!doctype html>" in place.read_text()
    assert "the run before" in place.read_text()


def test_a_run_that_is_none_is_wrong_input(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "1999"]) == 2
    assert "hint: imagebuilder report lists" in capsys.readouterr().err


def test_a_broken_record_stops_no_list(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    (history.folder / "2026-11-22T10-00-00" / RECORD).write_text("{")

    assert main(["report", "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
