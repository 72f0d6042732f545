import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.fetch import MissingFilesError, Sources, fetch, substituters_in
from imagebuilder.lock.model import Archive, Closure, LockedPackage
from imagebuilder.store.folder import Store
from imagebuilder.store.substituter import Substituter


def package(name: str, content: bytes) -> LockedPackage:
    return LockedPackage(
        name=name,
        version="1",
        architecture="all",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        archive=Archive.DEBIAN,
        path=f"pool/main/{name}.deb",
        closures=(Closure.TOOLS,),
    )


def mirror(folder: Path, files: Mapping[str, bytes]) -> Sources:
    """Return sources whose only mirror is *folder*, reached by apt as any other."""
    for name, content in files.items():
        path = folder / "debian" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Sources(lambda: {archive: f"file:{folder}/{archive}" for archive in Archive})


def no_mirrors() -> Mapping[Archive, str]:
    raise AssertionError("the mirrors were asked for")


def test_a_file_comes_from_the_mirror(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "store"), package("a", b"aaa")

    fetch(store, [wanted], mirror(tmp_path, {wanted.path: b"aaa"}))

    assert store.file(wanted.sha256).read_bytes() == b"aaa"


def test_a_file_that_was_changed_on_the_mirror_is_not_kept(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "store"), package("a", b"aaa")

    with pytest.raises(ImagebuilderError):
        fetch(store, [wanted], mirror(tmp_path, {wanted.path: b"bbb"}))

    assert not store.has_file(wanted.sha256)
    assert list((tmp_path / "store/files").glob("*")) == []


def test_files_that_are_gone_are_all_named_and_the_others_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    here, gone, lost = package("here", b"1"), package("gone", b"22"), package("lost", b"333")

    with pytest.raises(MissingFilesError, match="gone 1, lost 1") as caught:
        fetch(store, [gone, here, lost], mirror(tmp_path, {here.path: b"1"}))

    assert store.has_file(here.sha256)
    assert caught.value.hint


def test_a_substituter_is_searched_by_hash_whatever_its_names(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "store"), package("a", b"aaa")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/decoy").write_bytes(b"bbb")
    (tmp_path / "kept/any name").write_bytes(b"aaa")

    fetch(
        store,
        [wanted],
        Sources(no_mirrors, (Substituter(str(tmp_path / "kept")), Substituter(str(tmp_path / "absent")))),
    )

    assert store.file(wanted.sha256).read_bytes() == b"aaa"
    assert (tmp_path / "kept/any name").exists()


def test_what_is_in_the_store_needs_no_source(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "store"), package("a", b"aaa")
    (tmp_path / "x").write_bytes(b"aaa")
    store.add_file(tmp_path / "x", wanted.sha256)

    fetch(store, [wanted], Sources(no_mirrors))


def test_substituters_come_from_the_environment() -> None:
    named = {"IMAGEBUILDER_SUBSTITUTERS": "/a:https://b.example:8443/c:/d"}

    assert [str(each) for each in substituters_in(named)] == ["/a", "https://b.example:8443/c", "/d"]
    assert substituters_in({}) == ()
