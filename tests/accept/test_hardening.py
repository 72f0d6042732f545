"""Whoever breaks into a service finds little: what systemd's own judge says of every unit that we start."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.render import render_role
from imagebuilder.run import run
from imagebuilder.secrets.keys import new_secrets, public_keys
from imagebuilder.services import Site
from imagebuilder.tools import Tools
from imagebuilder.topology import Role, Topology
from imagebuilder.tree import Tree

pytestmark = pytest.mark.accept

MOST = 4.0
"""Of 10, which is a plain service that runs as root."""

EXCEPTIONS = {
    "ssh.service": "its sessions are root's, who has to be able to do everything",
}
ROOT = {
    "dovecot.service": "makes its processes users of their own, and they read every mailbox",
    "postfix.service": "makes its processes users of their own",
    "nftables.service": "sets the rules and ends",
    "ssh.service": "its sessions are root's",
    "first-certificate.service": "makes files of root's, and ends",
    "guests.service": "writes to files of root's, and ends",
    "new-certificate.service": "tells services to read a certificate again",
}
"""Units that start as root, and why."""


def units_of(tree: Tree) -> set[str]:
    """Return the services that *tree* enables, or starts by a socket, a timer or a path."""
    enabled = {path.name for path in tree.links if path.parent.name.endswith(".wants")}
    by_socket = {f"{path.stem}@.service" for path in tree.links if path.suffix == ".socket"}
    by_others = {f"{path.stem}.service" for path in tree.links if path.suffix in (".timer", ".path")}
    return {name for name in enabled | by_socket | by_others if name.endswith(".service")}


@pytest.fixture(scope="module")
def rendered(topology: Topology) -> Callable[[Role], Tree]:
    """Give the rendered tree of a role with every service that a topology can want."""
    wanted = topology.filter.model_copy(update={"virus_scanner": True})
    everything = topology.model_copy(update={"filter": wanted})
    keys = public_keys(new_secrets(everything))
    return lambda role: render_role(Site(everything, keys, role))


@pytest.fixture(params=list(Role))
def host(
    request: pytest.FixtureRequest,
    rendered: Callable[[Role], Tree],
    package_tree: Callable[[Role], Path],
    tmp_path: Path,
) -> tuple[Path, set[str]]:
    """The unit files of a host as they are in its image, in a root of their own, and what is enabled there."""
    role: Role = request.param
    packages, tree = package_tree(role), rendered(role)
    for folder in ("usr/lib/systemd/system", "etc/systemd/system", "usr/lib/tmpfiles.d"):
        if (packages / folder).is_dir():
            shutil.copytree(packages / folder, tmp_path / folder, symlinks=True, dirs_exist_ok=True)
    for path, file in tree.files.items():
        if "systemd" in path.parts:
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.write_bytes(file.content)
    return tmp_path, units_of(tree)


def settings_of(root: Path, unit: str) -> str:
    """Return the text of *unit* with its drop-ins, as systemd reads them."""
    texts = []
    for folder in ("etc/systemd/system", "usr/lib/systemd/system"):
        if (root / folder / unit).is_file():
            texts.append((root / folder / unit).read_text())
            break
    for folder in ("usr/lib/systemd/system", "etc/systemd/system"):
        texts += [path.read_text() for path in sorted((root / folder / f"{unit}.d").glob("*.conf"))]
    return "\n".join(texts)


def test_every_service_is_confined_or_the_reason_stands_here(tools: Tools, host: tuple[Path, set[str]]) -> None:
    root, units = host
    judged = sorted(units - EXCEPTIONS.keys())
    assert judged

    exposed = {}
    for unit in judged:
        argv = ["systemd-analyze", "security", "--offline=true", f"--root={root}", "--no-pager", unit]
        told = run(tools.argv(argv, read=[root])).text
        found = re.search(r"exposure level for \S+: ([0-9.]+)", told)
        assert found, told
        if float(found[1]) > MOST:
            exposed[unit] = float(found[1])

    assert exposed == {}


def test_no_service_is_root_without_a_reason(host: tuple[Path, set[str]]) -> None:
    root, units = host

    as_root = set()
    for unit in units:
        text = settings_of(root, unit)
        users = re.findall(r"^User=(.*)$", text, re.MULTILINE)
        if not (users and users[-1] not in ("", "root")) and "DynamicUser=yes" not in text:
            as_root.add(unit)

    assert as_root - ROOT.keys() - EXCEPTIONS.keys() == set()


def test_no_service_is_excused_that_does_not_exist(rendered: Callable[[Role], Tree]) -> None:
    units = set().union(*(units_of(rendered(role)) for role in Role))

    assert ROOT.keys() | EXCEPTIONS.keys() <= units
