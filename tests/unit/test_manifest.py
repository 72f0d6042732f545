import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.errors import ImagebuilderError
from imagebuilder.store.manifest import Entry, Manifest, differing, manifest_of, parse_manifest


def output(folder: Path) -> Path:
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "usr/bin/tool").write_bytes(b"abc")
    (folder / "usr/bin/tool").chmod(0o4755)
    (folder / "bin").symlink_to("usr/bin")
    return folder


def test_an_output_is_the_same_wherever_it_is_and_whenever_it_was_made(tmp_path: Path) -> None:
    a, b = output(tmp_path / "a"), output(tmp_path / "b")
    os.utime(b / "usr/bin/tool", (1, 1))

    assert manifest_of(a) == manifest_of(b)
    assert manifest_of(a).digest == manifest_of(b).digest


def retarget(folder: Path) -> None:
    (folder / "bin").unlink()
    (folder / "bin").symlink_to("usr/sbin")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda f: (f / "usr/bin/tool").write_bytes(b"abd"),
    "mode": lambda f: (f / "usr/bin/tool").chmod(0o755),
    "target": retarget,
    "more": lambda f: (f / "usr/new").mkdir(),
    "less": lambda f: (f / "usr/bin/tool").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(tmp_path: Path, change: str) -> None:
    folder = output(tmp_path / "a")
    before = manifest_of(folder)
    CHANGES[change](folder)

    assert len(differing(before, manifest_of(folder))) == 1


def test_a_digest_that_is_known_is_not_taken_again(tmp_path: Path) -> None:
    folder = output(tmp_path / "a")

    (tool,) = (e for e in manifest_of(folder, known={"usr/bin/tool": "f" * 64}).entries if e.kind == "f")

    assert tool.content == "f" * 64


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
entries = st.builds(
    Entry,
    path=st.lists(names, min_size=1, max_size=3).map(lambda parts: PurePosixPath(*parts)),
    kind=st.sampled_from("dfl"),
    mode=st.integers(0, 0o7777),
    content=st.text(max_size=20),
    size=st.integers(0, 2**50),
)


@given(st.lists(entries, max_size=6, unique_by=lambda entry: entry.path))
def test_a_manifest_is_read_as_it_was_written(found: list[Entry]) -> None:
    manifest = Manifest(tuple(sorted(found, key=lambda entry: entry.path)))

    assert parse_manifest(str(manifest), source="x") == manifest


def test_a_device_cannot_be_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ImagebuilderError, match="neither a file nor a folder nor a link"):
        manifest_of(tmp_path)


@pytest.mark.parametrize("text", ["", "x", "imagebuilder manifest 1\n[]\n", "imagebuilder manifest 1\n3\n"])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ImagebuilderError, match="x is no manifest"):
        parse_manifest(text, source="x")
