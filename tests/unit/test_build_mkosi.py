from pathlib import Path

from imagebuilder.build.mkosi import with_plain_modes
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
