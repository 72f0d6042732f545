"""What the accept tests read: package trees, rendered trees and tools."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.render import render_role
from imagebuilder.secrets import new_secrets, public_keys
from imagebuilder.services import Site
from imagebuilder.tools import Tools
from imagebuilder.topology import Role, Topology, load_topology
from imagebuilder.tree import Tree
from tests.accept.proxy_room import Parts

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"


def folder_of(variable: str) -> Path:
    """Return the folder that *variable* names; skip without it."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} names no folder")
    return Path(value)


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools(folder_of("IMAGEBUILDER_ACCEPT_TOOLS"))


@pytest.fixture(scope="session")
def package_tree() -> Callable[[Role], Path]:
    return lambda role: folder_of(f"IMAGEBUILDER_ACCEPT_TREE_{role.upper()}")


@pytest.fixture(scope="session")
def topology() -> Topology:
    return load_topology(REFERENCE)


@pytest.fixture(scope="session")
def rendered(topology: Topology) -> Callable[[Role], Tree]:
    keys = public_keys(new_secrets(topology))
    return lambda role: render_role(Site(topology, keys, role))


@pytest.fixture(scope="session")
def parts(tools: Tools, package_tree: Callable[[Role], Path], rendered: Callable[[Role], Tree]) -> Parts:
    package_tree(Role.PROXY), package_tree(Role.CLIENT)
    return Parts(tools, package_tree, rendered)
