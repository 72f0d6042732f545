import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imagebuilder.cli import main
from imagebuilder.errors import refused

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"


def test_a_sound_topology_passes_and_says_so_on_stderr(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "no problems" in err


def test_every_problem_is_in_the_json(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (site / "topology.toml").read_text()
    (site / "topology.toml").write_text(text.replace("mtu = 1420", "mtu = 1\nmut = 2"))

    assert main(["check", "--json"]) == 2
    places = {problem["place"] for problem in json.loads(capsys.readouterr().out)}
    assert {"tunnel.mtu", "tunnel.mut"} <= places


def test_broken_toml_ends_with_status_2_and_no_traceback(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "topology.toml").write_text("[proxy\n")

    assert main(["build"]) == 2
    assert capsys.readouterr().err.startswith("error: topology.toml")


def test_a_build_without_a_lock_names_the_command_that_makes_one(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "topology.lock").unlink()

    assert main(["build"]) == 1
    assert "hint: imagebuilder lock" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".lock", ".public.toml"])
@pytest.mark.parametrize("command", ["build", "plan", "verify"])
def test_a_file_that_may_not_be_read_is_one_sentence(
    site: Path, command: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / f"topology{suffix}").unlink()
    (site / f"topology{suffix}").mkdir()

    assert main([command]) in (1, 2)
    assert capsys.readouterr().err.startswith("error: topology.")


def test_a_place_that_refuses_is_one_sentence_and_no_traceback(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Nobody makes folders there, root included.
    assert main(["render", "/sys/rendered"]) == 1

    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: /sys/rendered")
    assert hint == "hint: name a place where you may read and write"


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "make room there"), (errno.EROFS, "name a place where")])
def test_what_the_operator_mends_is_told_as_that(number: int, hint: str) -> None:
    told = refused(OSError(number, os.strerror(number), "/x/y"))

    assert told is not None
    assert str(told) == f"/x/y: {os.strerror(number).lower()}"
    assert told.hint and told.hint.startswith(hint)


def test_what_may_be_a_bug_keeps_its_traceback() -> None:
    assert refused(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/x")) is None


def test_a_plan_shows_what_is_missing(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["name"] for step in steps][-1] == "client-image"
    assert not any(step["present"] for step in steps)


def test_rendering_never_writes_into_what_is_there(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "out"]) == 0
    assert (site / "out/client/etc/postfix/main.cf").is_file()
    (site / "out/mine").write_text("keep me")

    assert main(["render", "out"]) == 1
    assert (site / "out/mine").read_text() == "keep me"


def test_the_schema_describes_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    out = capsys.readouterr().out
    assert all(table in out for table in ("[proxy]", "[client]", "[tunnel]", "[[mail.domains]]", "[acme]"))


def test_a_reader_that_goes_away_causes_no_traceback(site: Path) -> None:
    argv = [sys.executable, "-m", "imagebuilder", "schema"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--as", "example.net"], "--as: that is for deployed hosts"),
        (["--patience", "3"], "--patience: that is for deployed hosts"),
        (["--identity", "key", "--certificate", "pem"], "--identity, --certificate: that is for deployed hosts"),
        (["--deployed", "--jobs", "2", "--keep"], "--jobs, --keep: that is for machines of the bed"),
        (["--deployed", "--certificate", "pem"], "--certificate is for a mail server"),
        (["--deployed"], "nothing has been built from topology.toml yet"),
    ],
)
def test_options_that_have_nothing_to_say_to_each_other_are_told(
    site: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", *options]) in (1, 2)
    assert said in capsys.readouterr().err


def test_deployed_hosts_get_the_gentle_tests_alone(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--list", "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    assert main(["test", "--list", "--json", "--deployed"]) == 0
    gentle = json.loads(capsys.readouterr().out)

    assert set(gentle) < set(every)
    assert len(gentle) > 50
    assert not [name for name in gentle if "test_recovery" in name or "test_faults" in name]
