"""What is installed from a wheel is what the checkout is."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from imagebuilder.commands.files import Files
from tests.golden.test_golden import HERE, TOPOLOGIES, golden

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Give what runs the command line of a wheel, somewhere else, and returns what it printed."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(CHECKOUT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
        # as pip does it
        for entry in archive.infolist():
            (folder / "site" / entry.filename).chmod(entry.external_attr >> 16 & 0o777)

    def run(*argv: str) -> str:
        environment = os.environ | {
            "PYTHONPATH": str(folder / "site"),
            "PYTHONSAFEPATH": "1",
            "IMAGEBUILDER_STORE": str(folder / "store"),
        }
        command = [sys.executable, "-m", "imagebuilder", *argv]
        return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout

    return run


@pytest.mark.parametrize("name", ["reference", "rich"])
def test_a_wheel_renders_the_golden_trees(name: str, installed: Callable[..., str], tmp_path: Path) -> None:
    installed("render", "-t", str(TOPOLOGIES / f"{name}.toml"), str(tmp_path / "rendered"))

    for role in ("proxy", "client"):
        assert golden(tmp_path / "rendered" / role) == golden(HERE / name / role)


def test_a_wheel_has_the_same_derivations(installed: Callable[..., str], tmp_path: Path) -> None:
    for suffix in (".toml", ".lock", ".public.toml"):
        shutil.copy(TOPOLOGIES / f"reference{suffix}", tmp_path / f"topology{suffix}")

    told = json.loads(installed("plan", "--json", "-t", str(tmp_path / "topology.toml")))

    steps = Files(tmp_path / "topology.toml").plan().steps
    assert [f"{step['key']}-{step['name']}" for step in told["steps"]] == [str(step) for step in steps]
