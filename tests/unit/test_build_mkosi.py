from pathlib import Path

import pytest

from imagebuilder.build import mkosi
from imagebuilder.build.mkosi import MEMORY_MIB, free_memory_mib, in_memory, with_plain_modes
from imagebuilder.plan import tree_digest
from imagebuilder.store.manifest import manifest_of


def profile(folder: Path, *, umask: int) -> Path:
    (folder / "mkosi.extra/etc").mkdir(parents=True)
    (folder / "mkosi.extra/etc/fstab").write_text("x")
    (folder / "mkosi.finalize").write_text("#!/bin/sh\n")
    for path in (folder, *folder.rglob("*")):
        plain = 0o777 if path.is_dir() or path.name == "mkosi.finalize" else 0o666
        path.chmod(plain & ~umask)
    return folder


def test_the_umask_of_a_checkout_does_not_reach_the_image(tmp_path: Path) -> None:
    a, b = profile(tmp_path / "a", umask=0o002), profile(tmp_path / "b", umask=0o077)

    assert tree_digest(a) == tree_digest(b)
    assert manifest_of(a) != manifest_of(b)
    copies = [with_plain_modes(source, tmp_path / "copies" / source.name) for source in (a, b)]
    assert manifest_of(copies[0]) == manifest_of(copies[1])
    assert (copies[0] / "mkosi.finalize").stat().st_mode & 0o777 == 0o755
    assert (copies[1] / "mkosi.extra/etc/fstab").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("free", "mounted"), [(MEMORY_MIB, True), (MEMORY_MIB - 1, False)])
def test_mkosi_works_in_memory_only_where_there_is_room(
    free: int, mounted: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mkosi, "free_memory_mib", lambda: free)

    assert bool(in_memory(tmp_path)) == mounted


def test_free_memory_is_what_this_machine_has_at_most() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) // 1024

    assert 0 < free_memory_mib() < total
