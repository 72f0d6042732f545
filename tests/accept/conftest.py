"""What the accept tests read: package trees, rendered trees and tools."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.pipeline import Built, build
from imagebuilder.plan import Plan
from imagebuilder.render import render_role
from imagebuilder.run import run
from imagebuilder.secrets.keys import new_secrets, public_keys
from imagebuilder.services import Site
from imagebuilder.tools import Tools
from imagebuilder.topology import Role, Topology, load_topology
from imagebuilder.tree import Tree
from tests.accept.proxy_room import Parts

SMALL = Path(__file__).parents[1] / "topologies/small.toml"


def copy_files(topology: Path, target: Path) -> None:
    """Copy what building *topology* takes to *target* and beside it."""
    for source, copy in zip(_built_from(topology), _built_from(target), strict=True):
        shutil.copy(source, copy)


def _built_from(topology: Path) -> tuple[Path, ...]:
    files = Files(topology)
    return files.topology, files.public, files.lock


@pytest.fixture(scope="session")
def plan(pytestconfig: pytest.Config) -> Plan:
    """What --topology means; without it these tests are skipped, which in CI is a failure."""
    path = pytestconfig.getoption("--topology")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("--topology names none")
    return Files(path).plan()


@pytest.fixture(scope="session")
def built(plan: Plan) -> Built:
    return build(the_store(), plan, sources_of_environment())


@pytest.fixture(scope="session")
def tools(built: Built) -> Tools:
    return built.tools


@pytest.fixture(scope="session")
def package_tree(built: Built, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Role], Path]:
    """Give the package tree of a role as it is in the image, its files belonging to whom they belong there."""

    @cache
    def extracted(role: Role) -> Path:
        folder = tmp_path_factory.mktemp(role, numbered=False)
        base = the_store().path(plan.roles[role].base)
        argv = ["fsck.erofs", f"--extract={folder}", "--overwrite", "--preserve", str(base / "root.erofs")]
        run(built.tools.argv(argv, read=[base], write=[folder]))
        return folder

    return extracted


@pytest.fixture(scope="session")
def topology() -> Topology:
    return load_topology(SMALL)


@pytest.fixture(scope="session")
def rendered(topology: Topology) -> Callable[[Role], Tree]:
    keys = public_keys(new_secrets(topology))
    return lambda role: render_role(Site(topology, keys, role))


@pytest.fixture(scope="session")
def parts(tools: Tools, package_tree: Callable[[Role], Path], rendered: Callable[[Role], Tree]) -> Parts:
    package_tree(Role.PROXY), package_tree(Role.CLIENT)
    return Parts(tools, package_tree, rendered)
