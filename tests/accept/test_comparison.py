"""Comparing real images, changed here by the tools that made them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.build import mkosi
from imagebuilder.commands.sources import the_store
from imagebuilder.comparison import differences, partitions
from imagebuilder.comparison.readers import read_erofs
from imagebuilder.lock.model import Closure
from imagebuilder.pipeline import Built
from imagebuilder.plan import Plan
from imagebuilder.run import run
from imagebuilder.store.hashing import sha256_of
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.verify.circumstances import other_clock
from imagebuilder.verify.rebuild import digests, verdict

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
    esp = next(side.span for side in partitions(copy) if side.span.label == "esp")
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


def test_digests_are_read_from_the_bytes_of_an_image(built: Built, plan: Plan, tmp_path: Path) -> None:
    image = built.images[Role.PROXY]

    found = digests(image.path, built.tools, tmp_path)

    assert (found.disk, found.root_hash) == (image.sha256, image.root_hash)
    assert found.initrd == sha256_of(the_store().path(plan.roles[Role.PROXY].initrd) / "initrd")


def test_an_image_that_was_tampered_with_is_not_identical(built: Built, copy: Path, tmp_path: Path) -> None:
    with copy.open("r+b") as disk:
        disk.seek(partitions(copy)[2].span.offset + 8192)
        disk.write(bytes(byte ^ 1 for byte in disk.read(1)))

    found = verdict(built.images[Role.PROXY].path, copy, built.tools, tmp_path)

    assert not found.identical
    assert found.differences[0].place[0] == partitions(copy)[2].span.label


def test_programs_of_the_tools_believe_in_the_other_clock(tools: Tools) -> None:
    year = [int(run(each.argv(["date", "+%Y"])).text) for each in (tools, replace(tools, clock=other_clock()))]

    assert year[0] < year[1]


def test_packages_are_installed_by_the_other_clock(built: Built, plan: Plan, tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "mkosi.conf").write_text("[Output]\nFormat=directory\n[Content]\nBootable=no\nPackages=coreutils\n")
    (profile / "mkosi.postinst.chroot").write_text("#!/bin/sh\ndate +%Y > /year\n")
    (profile / "mkosi.finalize").write_text(
        '#!/bin/sh\ncp "$BUILDROOT/year" "$OUTPUTDIR"; date +%Y >> "$OUTPUTDIR/year"\n'
    )
    for script in profile.glob("mkosi.*[!f]"):
        script.chmod(0o755)

    with the_store().workspace() as folder:
        output = mkosi.build(
            the_store(),
            replace(built.tools, clock=other_clock()),
            plan.lock.closure(Closure.INITRD),
            profiles=[profile],
            epoch=plan.lock.epoch,
            seed=plan.lock.seed,
            folder=folder,
        )
        years = [int(line) for line in (output / "year").read_text().split()]
        left = list(output.rglob("*faketime*"))

    now = int(run(["date", "-u", "+%Y"]).text)
    assert [year > now for year in years] == [True, True]
    assert not left
