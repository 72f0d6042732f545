"""When asking for a build again is answered without looking into anything."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.commands import unchanged
from imagebuilder.commands.unchanged import answer, asked, note

KEYS = {"tools": "1" * 32, "proxy-image": "2" * 32, "client-image": "3" * 32}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with the operator's files, a store's outputs, a generation and the note that it was asked for."""
    ours = tmp_path / "ours"
    (ours / "module").mkdir(parents=True)
    (ours / "module/x.py").write_text("1")
    for name in ("PACKAGE", "PROFILES", "OVERLAYS"):
        monkeypatch.setattr(unchanged, name, ours)
    for name, key in KEYS.items():
        (tmp_path / f"outputs/{key}-{name}").mkdir(parents=True)
        (tmp_path / f"outputs/{key}-{name}/disk.raw").touch()
    (tmp_path / "generations/2").mkdir(parents=True)
    images = {role: {"sha256": f"of the {role}", "path": "where it once was"} for role in ("proxy", "client")}
    (tmp_path / "generations/2/generation.json").write_text(json.dumps({"steps": KEYS, "images": images}))
    (tmp_path / "generations/2/provenance.json").touch()
    (tmp_path / "topology.toml").write_text("x = 1")
    note(tmp_path / "generations", asked(operators_files(tmp_path)), 2)
    return tmp_path


def operators_files(site: Path) -> tuple[Path, ...]:
    return site / "topology.toml", site / "topology.overrides.toml"


def again(site: Path) -> object:
    return answer(site / "generations", site / "outputs")


def test_the_same_again_is_the_generation_that_it_gave(site: Path) -> None:
    assert again(site) == (
        2,
        {
            role: {"sha256": f"of the {role}", "path": site / f"outputs/{KEYS[f'{role}-image']}-{role}-image/disk.raw"}
            for role in ("proxy", "client")
        },
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda site: (site / "topology.toml").write_text("x = 2"),
        lambda site: (site / "topology.toml").unlink(),
        lambda site: (site / "topology.overrides.toml").touch(),
        lambda site: (site / "ours/module/x.py").write_text("2"),
        lambda site: (site / "ours/module/y.py").touch(),
        lambda site: (site / "ours/module/x.py").rename(site / "ours/x.py"),
        lambda site: (site / "generations/3").mkdir(),
        lambda site: (site / "generations/2/provenance.json").unlink(),
        lambda site: (site / f"outputs/{'2' * 32}-proxy-image/disk.raw").unlink(),
        lambda site: (site / f"outputs/{'1' * 32}-tools").rename(site / "elsewhere"),
        lambda site: (site / "generations/asked.json").write_text("{"),
    ],
)
def test_with_anything_changed_it_is_not(site: Path, change: Callable[[Path], object]) -> None:
    change(site)

    assert again(site) is None


def test_another_setting_or_library_is_a_change(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("IMAGEBUILDER_SUBSTITUTERS", "/x")
        assert again(site) is None
    assert again(site)

    (site / "libraries/pydantic-9.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(site / "libraries")
    assert again(site) is None


def test_what_is_compiled_meanwhile_is_no_change(site: Path) -> None:
    (site / "ours/module/__pycache__").mkdir()
    (site / "ours/module/__pycache__/x.pyc").touch()

    assert again(site)
