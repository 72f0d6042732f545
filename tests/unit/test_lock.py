import contextlib
import string
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock.model import Archive, Closure, Lock, LockedPackage, changes, lock_text, parse_lock, read_lock

SEED = UUID("6b14c566-4460-5964-860e-63b874b62696")


def package(name: str = "hello", version: str = "1:2.10-3", **changed: object) -> LockedPackage:
    fields: dict[str, object] = {
        "name": name,
        "version": version,
        "architecture": "amd64",
        "sha256": "0" * 64,
        "size": 7,
        "archive": Archive.DEBIAN,
        "path": f"pool/main/h/{name}/{name}_1_amd64.deb",
        "closures": (Closure.PROXY,),
    }
    return LockedPackage.model_validate(fields | changed)


packages = st.builds(
    package,
    name=st.from_regex(r"[a-z0-9][a-z0-9.+-]{0,30}", fullmatch=True),
    version=st.text(string.ascii_letters + string.digits + '.+~:-"\\', min_size=1, max_size=20),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    size=st.integers(1, 2**40),
    archive=st.sampled_from(Archive),
    closures=st.lists(st.sampled_from(Closure), unique=True).map(lambda found: tuple(sorted(found))),
)
locks = st.builds(
    lambda found, epoch, seed: Lock(epoch=epoch, seed=seed, packages=tuple(sorted(found, key=lambda p: p.name))),
    st.lists(packages, unique_by=lambda p: p.name, max_size=8),
    st.integers(0, 2**33),
    st.uuids(),
)


@given(locks)
def test_a_lock_is_read_as_it_was_written(lock: Lock) -> None:
    assert parse_lock(lock_text(lock), source="x.lock") == lock


@given(locks)
def test_a_package_is_one_line(lock: Lock) -> None:
    assert len(lock_text(lock).splitlines()) == 7 + len(lock.packages)


@pytest.mark.parametrize(
    "text",
    ["", "]", "version = 2", "version = 1\nepoch = 1\nseed = 'x'\n[packages]\n", "packages = 3", "packages = ['a']"],
)
def test_what_is_no_lock_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ImagebuilderError) as caught:
        parse_lock(text, source="x.lock")
    assert str(caught.value).startswith("x.lock is not a lock")
    assert caught.value.hint


def test_what_is_wrong_in_a_lock_is_named_by_its_package() -> None:
    text = lock_text(Lock(epoch=0, seed=SEED, packages=(package("adduser"), package("hello"))))
    text = text.replace('"hello" = { version = "1:2.10-3"', '"hello" = { version = 3, wersion = 4')

    with pytest.raises(ImagebuilderError) as caught:
        parse_lock(text, source="topology.lock")
    assert str(caught.value).startswith(
        "topology.lock is not a lock that this version can read: packages.hello.version: "
    )
    assert str(caught.value).endswith(", and 1 more")


def test_a_lock_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "site.lock").write_bytes(b"\xff")

    with pytest.raises(ImagebuilderError, match="is no UTF-8 text"):
        read_lock(tmp_path / "site.lock")


def test_a_merge_conflict_is_named_with_its_line() -> None:
    with pytest.raises(ImagebuilderError, match=r"x\.lock:2: the lock has a merge conflict"):
        parse_lock("version = 1\n<<<<<<< ours\n", source="x.lock")


def test_a_missing_lock_says_which_command_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ImagebuilderError) as caught:
        read_lock(tmp_path / "site.lock")
    assert caught.value.status == 1
    assert caught.value.hint == f"imagebuilder lock -t {tmp_path / 'site.toml'}"


def test_changes_name_what_came_what_went_and_what_moved() -> None:
    old = Lock(epoch=1, seed=SEED, packages=(package("gone"), package("moved", "1"), package("same")))
    security = package("moved", "2", sha256="1" * 64, archive=Archive.SECURITY)
    new = Lock(epoch=2, seed=SEED, packages=(security, package("new", "3"), package("same")))

    assert [str(change) for change in changes(old, new)] == [
        "- gone 1:2.10-3 [proxy]",
        "  moved 1 -> 2 (security) [proxy]",
        "+ new 3 [proxy]",
    ]


def test_a_file_name_escapes_the_epoch_of_a_version() -> None:
    assert package().file_name == "hello_1%3a2.10-3_amd64.deb"


def test_a_lock_keeps_the_reasons_of_overrides_whatever_they_say() -> None:
    text = 'quotes " \\ and 🦆 and \x7f and \n newlines'
    lock = Lock(epoch=1, seed=SEED, updates=(2, 3), packages=(package(pinned=text), package("x", held="y")))

    assert parse_lock(lock_text(lock), source="x.lock") == lock
    assert lock.states == (3, 2, 1)


def merged(base: Lock, ours: Lock, theirs: Lock, folder: Path) -> tuple[int, str]:
    for name, lock in (("ours", ours), ("base", base), ("theirs", theirs)):
        (folder / name).write_text(lock_text(lock))
    done = subprocess.run(
        ["git", "merge-file", "-p", "ours", "base", "theirs"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def test_changes_of_packages_apart_merge_by_themselves(tmp_path: Path) -> None:
    names = [package(name) for name in ("a", "b", "c", "d", "e")]
    base = Lock(epoch=1, seed=SEED, packages=tuple(names))
    ours = base.model_copy(update={"packages": (package("a", "2"), *names[1:])})
    theirs = base.model_copy(update={"packages": (*names[:4], package("e", "2"))})

    conflicts, text = merged(base, ours, theirs, tmp_path)

    assert conflicts == 0
    assert [p.version for p in parse_lock(text, source="x").packages if p.name in "ae"] == ["2", "2"]


def test_a_merge_conflict_shows_just_the_package_in_both_versions(tmp_path: Path) -> None:
    names = [package(name) for name in ("a", "b", "c", "d", "e")]
    base = Lock(epoch=1, seed=SEED, packages=tuple(names))
    ours = base.model_copy(update={"packages": (*names[:2], package("c", "2"), *names[3:])})
    theirs = base.model_copy(update={"packages": (*names[:2], package("c", "3"), *names[3:])})

    conflicts, text = merged(base, ours, theirs, tmp_path)

    between = text[text.index("<<<<<<<") : text.index(">>>>>>>")].splitlines()
    assert conflicts == 1
    assert len(between) == 4
    assert '"c"' in between[1]
    assert '"c"' in between[3]


@given(locks, locks)
def test_changes_lead_from_one_lock_to_the_other(old: Lock, new: Lock) -> None:
    for closure in Closure:
        versions = {p.name: p.version for p in old.closure(closure)}
        for change in changes(old, new):
            if closure in change.closures:
                assert versions.pop(change.name, None) == change.old
                versions |= {change.name: change.new} if change.new is not None else {}
        assert versions == {p.name: p.version for p in new.closure(closure)}


@given(st.text(max_size=200))
def test_any_text_is_a_lock_or_refused_in_one_line(text: str) -> None:
    with contextlib.suppress(ImagebuilderError):
        parse_lock(text, source="x.lock")
    with pytest.raises(ImagebuilderError) as caught:
        parse_lock(f"{text}\n]", source="x.lock")
    assert "\n" not in str(caught.value)
