import shutil
from pathlib import Path

import pytest

from imagebuilder.cli import main
from imagebuilder.errors import WrongInputError
from imagebuilder.lock.model import lock_text, read_lock
from imagebuilder.lock.overrides import read_overrides

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "site.overrides.toml"
    path.write_text(text)
    with pytest.raises(WrongInputError) as caught:
        read_overrides(path)
    return [str(problem) for problem in caught.value.problems]


def test_no_file_means_no_overrides(tmp_path: Path) -> None:
    assert read_overrides(tmp_path / "site.overrides.toml").kept(None) == {}


def test_pins_and_holds_are_read(tmp_path: Path) -> None:
    path = tmp_path / "site.overrides.toml"
    path.write_text('[pin."libstdc++6"]\nversion = "14.2.0-19"\nreason = " why "\n[hold.caddy]\nreason = "because"\n')

    overrides = read_overrides(path)

    assert overrides.kept(None) == {"libstdc++6": "14.2.0-19"}
    assert overrides.reasons("libstdc++6") == {"pinned": "why", "held": None}
    assert overrides.reasons("caddy") == {"pinned": None, "held": "because"}


def test_everything_that_is_wrong_is_reported_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, '[pin.a]\nversion = "newest"\n[hold.b]\nreason = ""\n[keep.c]\n')

    assert [problem.partition(":")[0] for problem in found] == [
        "hold.b.reason",
        "pin.a.version",
        "pin.a.reason",
        "keep",
    ]
    assert "a version of a Debian package is wanted" in found[1]


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    assert "is not TOML" in problems(tmp_path, "[pin\n")[0]


def test_overrides_that_the_lock_was_made_without_stop_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    for suffix in (".toml", ".lock", ".public.toml"):
        shutil.copy(REFERENCE.with_suffix(suffix), tmp_path / f"topology{suffix}")
    (tmp_path / "topology.overrides.toml").write_text('[hold.caddy]\nreason = "why"\n')

    assert main(["build"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: topology.overrides.toml has 1 problem:",
        "  hold.caddy: the lock was made without it",
        "hint: imagebuilder lock -t topology.toml",
    ]
    lock = read_lock(tmp_path / "topology.lock")
    noted = tuple(p.model_copy(update={"held": "why"} if p.name == "caddy" else {}) for p in lock.packages)
    (tmp_path / "topology.lock").write_text(lock_text(lock.model_copy(update={"packages": noted})))
    assert main(["plan"]) == 0
