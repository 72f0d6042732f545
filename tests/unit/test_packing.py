import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.errors import ImagebuilderError
from imagebuilder.store.hashing import sha256_of
from imagebuilder.store.manifest import manifest_of
from imagebuilder.store.packing import BLOCK, pack, unpack
from tests.unit.test_manifest import output

contents = st.one_of(
    st.binary(max_size=100),
    st.builds(
        lambda a, n, b: a + bytes(n) + b, st.binary(max_size=9), st.integers(0, 3 * BLOCK), st.binary(max_size=9)
    ),
)


def packed(folder: Path, target: Path) -> str:
    pack(folder, manifest_of(folder), target)
    return sha256_of(target)


def test_an_archive_depends_on_nothing_but_the_content(tmp_path: Path) -> None:
    a, b = output(tmp_path / "a"), output(tmp_path / "b")
    (b / "usr/bin/tool").touch()

    assert packed(a, tmp_path / "a.tar") == packed(b, tmp_path / "b.tar")


def test_an_output_comes_back_as_it_was(tmp_path: Path) -> None:
    a, b = output(tmp_path / "a"), tmp_path / "b"
    (a / "usr").chmod(0o555)
    (a / ("long" * 60)).write_text("x")
    packed(a, tmp_path / "a.tar")
    b.mkdir()

    digests = unpack(tmp_path / "a.tar", b)

    assert manifest_of(b) == manifest_of(a) == manifest_of(b, known=digests)


@given(content=contents)
def test_any_content_comes_back_zeros_included(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("x")
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    (folder / "a/x").write_bytes(content)
    packed(folder / "a", folder / "tar")

    assert unpack(folder / "tar", folder / "b") == {"x": sha256_of(folder / "a/x")}
    assert (folder / "b/x").read_bytes() == content


def test_zeros_become_holes_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (tmp_path / "a/disk").open("wb") as file:
        file.truncate(2**26)
    packed(tmp_path / "a", tmp_path / "tar")

    unpack(tmp_path / "tar", tmp_path / "b")

    assert (tmp_path / "b/disk").stat().st_size == 2**26
    assert (tmp_path / "b/disk").stat().st_blocks == 0


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.mode = kind, link, 0o755
    return header


def archive(folder: Path, entries: Iterable[tarfile.TarInfo]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for header in entries:
            tar.addfile(header)
    (folder / "hostile").write_bytes(zstandard.compress(buffer.getvalue()))
    return folder / "hostile"


HOSTILE = {
    "absolute": [entry("/tmp/outside")],
    "upwards": [entry("../outside")],
    "upwards from within": [entry("a", tarfile.DIRTYPE), entry("a/../../outside")],
    "through a link": [entry("a", tarfile.SYMTYPE, ".."), entry("a/outside")],
    "over a link": [entry("a", tarfile.SYMTYPE, "../outside"), entry("a")],
    "a hard link": [entry("a", tarfile.LNKTYPE, "../outside")],
    "a device": [entry("a", tarfile.CHRTYPE)],
    "itself": [entry(".")],
}


@pytest.mark.parametrize("how", HOSTILE)
def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path: Path, how: str) -> None:
    (tmp_path / "into").mkdir()

    with pytest.raises(ImagebuilderError, match="is no archive of an output"):
        unpack(archive(tmp_path, HOSTILE[how]), tmp_path / "into")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile", "into"]


@pytest.mark.parametrize("length", [0, 10, 60])
def test_half_an_archive_is_refused(tmp_path: Path, length: int) -> None:
    packed(output(tmp_path / "a"), tmp_path / "tar")
    (tmp_path / "half").write_bytes((tmp_path / "tar").read_bytes()[:length])
    (tmp_path / "b").mkdir()

    with pytest.raises(ImagebuilderError, match="half is no archive of an output"):
        unpack(tmp_path / "half", tmp_path / "b")
