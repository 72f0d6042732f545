"""Comparing real images, changed here by the tools that made them."""

import shutil
from pathlib import Path

import pytest

from imagebuilder.comparison import differences, partitions
from imagebuilder.comparison.readers import read_erofs
from imagebuilder.pipeline import Built
from imagebuilder.run import run
from imagebuilder.tools import Tools
from imagebuilder.topology import Role

pytestmark = pytest.mark.accept


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Path:
    """Give a copy of the proxy's image that may be changed."""
    run(["cp", "--sparse=always", "--reflink=auto", str(built.images[Role.PROXY].path), str(tmp_path / "copy.raw")])
    (tmp_path / "copy.raw").chmod(0o644)
    return tmp_path / "copy.raw"


def test_a_copy_has_no_differences(built: Built, copy: Path, tmp_path: Path) -> None:
    assert not differences(built.images[Role.PROXY].path, copy, built.tools, tmp_path)


def test_a_changed_boot_menu_is_named_with_its_line(built: Built, copy: Path, tmp_path: Path) -> None:
    esp = next(side.partition for side in partitions(copy) if side.partition.label == "esp")
    menu = tmp_path / "grub.cfg"
    menu.write_text("set timeout=7\n")
    target = ["-i", f"{copy}@@{esp.offset}", str(menu), "::/grub/grub.cfg"]
    run(built.tools.argv(["mcopy", "-o", *target], write=[tmp_path]))

    found = differences(built.images[Role.PROXY].path, copy, built.tools, tmp_path)

    assert [(d.place, d.lines) for d in found] == [(("esp", "grub/grub.cfg"), ("set timeout=0", "set timeout=7"))]


def test_owners_and_modes_of_a_sealed_root_are_read(tools: Tools, tmp_path: Path) -> None:
    tree, image, work = tmp_path / "tree", tmp_path / "root.erofs", tmp_path / "work"
    for folder in (tree, work):
        folder.mkdir()
    (tree / "shadow").write_text("secret\n")
    (tree / "shadow").chmod(0o640)
    shutil.copy(tree / "shadow", tree / "plain")
    argv = ["mkfs.erofs", "--quiet", "--force-uid=12", "--force-gid=34", str(image), str(tree)]
    run(tools.argv(argv, write=[tmp_path]))

    found = read_erofs(image, 0, tools, work)

    assert (found["shadow"].mode, found["shadow"].owner, found["shadow"].size) == (0o640, (12, 34), 7)
    assert found["plain"].read() == b"secret\n"
