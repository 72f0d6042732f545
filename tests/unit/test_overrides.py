from pathlib import Path

import pytest

from imagebuilder.errors import WrongInputError
from imagebuilder.overrides import read_overrides


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
