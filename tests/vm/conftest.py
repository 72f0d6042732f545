"""What the tests of the bed itself need: the tools of a topology, and a way into a namespace."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.build.toolchain import build_tools
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.secrets.keys import Secrets, new_secrets, public_keys
from imagebuilder.tools import Tools
from imagebuilder.topology import Topology, load_topology
from imagebuilder.vm.world import World

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Tools:
    """Return the tools of --topology; without it these tests are skipped, which in CI is a failure."""
    path = pytestconfig.getoption("--topology")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("--topology names none")
    return build_tools(the_store(), Files(path).plan())


@pytest.fixture(scope="session")
def topology() -> Topology:
    return load_topology(REFERENCE)


@pytest.fixture(scope="session")
def secrets(topology: Topology) -> Secrets:
    return new_secrets(topology)


@pytest.fixture(scope="session")
def new_world(tools: Tools, topology: Topology, secrets: Secrets) -> Callable[[], World]:
    """Give a world that has yet to be entered, inside a namespace."""
    return lambda: World(tools, topology, public_keys(secrets))
