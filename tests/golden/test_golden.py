"""The complete rendered trees of two topologies, in git: a change shows its effect in review.

After a change that is meant: ``make golden``, then read the difference.
"""

from pathlib import Path, PurePosixPath

import pytest

from imagebuilder.render import render_role
from imagebuilder.services import Site
from imagebuilder.topology import Role, load_public_keys, load_topology
from imagebuilder.tree import Tree, TreeFile

HERE = Path(__file__).parent
TOPOLOGIES = HERE.parent / "topologies"


def golden(folder: Path) -> Tree:
    """Return the tree that *folder* holds."""
    files, links = {}, {}
    for path in sorted(folder.rglob("*")):
        inside = PurePosixPath(path.relative_to(folder).as_posix())
        if path.is_symlink():
            links[inside] = str(path.readlink())
        elif path.is_file():
            files[inside] = TreeFile(path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
    return Tree(files, links)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("name", ["reference", "rich"])
def test_the_rendered_tree_is_the_one_in_git(name: str, role: Role) -> None:
    topology = load_topology(TOPOLOGIES / f"{name}.toml")
    public = load_public_keys(TOPOLOGIES / f"{name}.public.toml", topology)

    rendered, expected = render_role(Site(topology, public, role)), golden(HERE / name / role)

    assert sorted(rendered.files) == sorted(expected.files)
    assert dict(rendered.links) == dict(expected.links)
    for path, file in rendered.files.items():
        assert file.content.decode() == expected.files[path].content.decode(), path
        assert file.mode == expected.files[path].mode, path
