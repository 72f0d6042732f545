"""Locking and fetching from a real mirror on the loopback interface, honest and not."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from imagebuilder.availability import availability, gone, rotting
from imagebuilder.cli import main
from imagebuilder.errors import ImagebuilderError, WrongInputError
from imagebuilder.fetch import MissingFilesError, Sources, fetch
from imagebuilder.lock.model import Archive, Closure, Lock, LockedPackage, changes, lock_text
from imagebuilder.lock.overrides import Hold, Overrides, Pin
from imagebuilder.lock.resolve import ALL, Request, resolve
from imagebuilder.run import run
from imagebuilder.store.folder import Store
from imagebuilder.store.substituter import Substituter
from tests.unit.signed_archive import Deb, SignedArchive, signed_archive

pytestmark = pytest.mark.skipif(not shutil.which("gpg"), reason="gpg is missing")

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"
BASE = (Deb("base-files", "1", essential=True), Deb("libc6", "2.40"))
FIRST = (*BASE, Deb("liba", "1"), Deb("app", "1", "liba (>= 1), libc6"), Deb("tool", "1", "libc6"), Deb("other", "1"))
WANTED = {Closure.TOOLS: ("tool", "liba"), Closure.PROXY: ("app", "other")}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignedArchive]:
    with signed_archive(tmp_path_factory.mktemp("archive")) as archive:
        yield archive


@pytest.fixture
def archive(key: SignedArchive) -> SignedArchive:
    for name in (*Archive, "trees"):
        shutil.rmtree(key.folder / name, ignore_errors=True)
    key.publish(FIRST)
    return key


class Site:
    """A store, and what was locked."""

    def __init__(self, folder: Path, archive: SignedArchive) -> None:
        self.folder, self.archive, self.store = folder, archive, Store(folder / "store")
        self.tries = 0
        self.sources = Sources(lambda: archive.mirrors)

    def lock(
        self,
        old: Lock | None = None,
        moving: Sequence[str] | None = (),
        wanted: Mapping[Closure, Sequence[str]] = WANTED,
        **told: object,
    ) -> Lock:
        self.tries += 1
        request = Request(wanted, old, ALL if moving is None else frozenset(moving), **told)  # type: ignore[arg-type]
        return resolve(self.archive.apt(self.folder / f"apt{self.tries}"), request, self.controls)

    def controls(self, packages: Sequence[LockedPackage]) -> list[str]:
        fetch(self.store, packages, self.sources)
        return [run(["dpkg-deb", "--field", str(self.store.file(p.sha256))]).text.rstrip() for p in packages]


@pytest.fixture
def site(tmp_path: Path, archive: SignedArchive) -> Site:
    return Site(tmp_path, archive)


def moved(old: Lock, new: Lock) -> list[str]:
    return [str(change).strip() for change in changes(old, new)]


def pinned(name: str, version: str) -> Overrides:
    return Overrides(pin={name: Pin(version=version, reason="a reason")})


def held(name: str) -> Overrides:
    return Overrides(hold={name: Hold(reason="a reason")})


def test_a_lock_has_each_closure_with_what_it_depends_on(site: Site) -> None:
    lock = site.lock()

    assert {p.name for p in lock.closure(Closure.PROXY)} == {"base-files", "app", "liba", "libc6", "other"}
    assert {p.name for p in lock.closure(Closure.TOOLS)} == {"base-files", "tool", "liba", "libc6", "mkosi"}


def test_locking_again_changes_nothing_even_when_the_archive_moved(site: Site) -> None:
    old = site.lock()
    site.archive.publish([*BASE, Deb("liba", "2"), *FIRST[3:]])

    assert site.lock(old) == old


def test_a_closure_that_is_new_is_made_of_what_is_locked_and_moves_nothing(site: Site) -> None:
    old = site.lock()
    site.archive.publish([*BASE, Deb("liba", "2"), *FIRST[3:], Deb("new", "3", "liba, extra"), Deb("extra", "1")])

    new = site.lock(old, wanted={**WANTED, Closure.CLIENT: ("new",)})

    assert moved(old, new) == [
        "+ base-files 1 [client]",
        "+ extra 1 [client]",
        "+ liba 1 [client]",
        "+ new 3 [client]",
    ]


def test_only_the_named_package_moves_and_what_its_new_version_forces(site: Site) -> None:
    old = site.lock()
    newer = [Deb("liba", "2"), Deb("app", "2", "liba (>= 2), libc6"), Deb("tool", "2", "libc6"), Deb("other", "2")]
    site.archive.publish([*BASE, *newer])

    new = site.lock(old, ["app"])

    # liba is forced by app in one closure, and so moves in the other one too.
    assert moved(old, new) == ["app 1 -> 2 [proxy]", "liba 1 -> 2 [proxy, tools]"]
    assert (new.epoch, new.seed) == (old.epoch, old.seed)
    assert new.states[-1] == old.epoch


def test_everything_moves_when_nothing_is_named_and_security_fixes_are_marked(site: Site) -> None:
    old = site.lock()
    fix = Deb("liba", "1+deb13u1", archive=Archive.SECURITY)
    site.archive.publish([*FIRST, fix, Deb("other", "2")])

    assert moved(old, site.lock(old, None)) == ["liba 1 -> 1+deb13u1 (security) [proxy, tools]", "other 1 -> 2 [proxy]"]


def test_what_a_new_version_needs_comes_and_what_it_needs_no_more_goes(site: Site) -> None:
    old = site.lock()
    site.archive.publish([*BASE, *FIRST[2:], Deb("app", "2", "libnew"), Deb("libnew", "7")])

    assert moved(old, site.lock(old, ["app"])) == [
        "app 1 -> 2 [proxy]",
        "- liba 1 [proxy]",
        "- libc6 2.40 [proxy]",
        "+ libnew 7 [proxy]",
    ]


def test_a_package_that_the_archive_dropped_stays_locked_when_another_moves(site: Site) -> None:
    old = site.lock()
    fetch(site.store, [p for p in old.packages if p.name == "tool"], site.sources)
    site.archive.publish([*BASE, *FIRST[2:4], Deb("tool", "3"), Deb("other", "2")])

    assert moved(old, site.lock(old, ["other"])) == ["other 1 -> 2 [proxy]"]


def test_names_that_cannot_be_updated_are_all_reported_at_once(site: Site) -> None:
    old = site.lock()

    with pytest.raises(WrongInputError) as caught:
        site.lock(old, ["libb", "mkosi", "tool"], overrides=held("tool"))

    assert "libb: no such package is locked; did you mean 'liba'?" in str(caught.value)
    assert "mkosi: this package is fixed by imagebuilder itself" in str(caught.value)
    assert "tool: this package is held: a reason" in str(caught.value)


def test_a_held_package_stays_when_everything_moves_and_the_archive_dropped_it(site: Site) -> None:
    old = site.lock()
    site.archive.publish([*BASE, *FIRST[2:5], Deb("other", "2"), Deb("liba", "2")])

    new = site.lock(old, None, overrides=held("other"))

    assert moved(old, new) == ["liba 1 -> 2 [proxy, tools]"]
    assert new.by_name["other"].held == "a reason"
    assert new.by_name["liba"].held is None


def test_a_pinned_package_gets_its_version_and_the_lock_notes_why(site: Site) -> None:
    site.archive.publish([*FIRST, Deb("other", "2"), Deb("other", "3", archive=Archive.SECURITY)])

    lock = site.lock(overrides=pinned("other", "2"))

    assert (lock.by_name["other"].version, lock.by_name["other"].pinned) == ("2", "a reason")


def test_a_pin_moves_one_package_back_and_no_other(site: Site) -> None:
    site.archive.publish([*FIRST, Deb("other", "2")])
    old = site.lock()
    site.archive.publish([*FIRST, Deb("other", "2"), Deb("liba", "2")])

    assert moved(old, site.lock(old, overrides=pinned("other", "1"))) == ["other 2 -> 1 [proxy]"]


def test_impossible_overrides_are_all_reported_at_once(site: Site) -> None:
    overrides = Overrides(
        hold={"nonesuch": Hold(reason="x"), "app": Hold(reason="x")},
        pin={"mkosi": Pin(version="1", reason="x"), "othr": Pin(version="1", reason="x"), **pinned("liba", "9").pin},
    )

    with pytest.raises(WrongInputError) as caught:
        site.lock(overrides=overrides, overrides_name="my.overrides.toml")

    assert str(caught.value).splitlines() == [
        "my.overrides.toml has 5 problems:",
        "  hold.nonesuch: no such package in the archives",
        "  pin.mkosi: this package is fixed by imagebuilder itself",
        "  pin.othr: no such package in the archives; did you mean 'other'?",
        "  hold.app: nothing is locked that could be held; pin it instead",
        "  pin.liba.version: '9' is not in the archives, which have 1",
    ]


def test_a_hold_that_an_update_contradicts_is_one_sentence(site: Site) -> None:
    old = site.lock()
    site.archive.publish([*FIRST, Deb("liba", "2"), Deb("app", "2", "liba (>= 2)")])

    with pytest.raises(ImagebuilderError, match=r"can't be installed together: .*app.* liba") as caught:
        site.lock(old, ["app"], overrides=held("liba"))
    assert "\n" not in str(caught.value)


REFUSALS = {
    "unsigned": "it gives no signed Release file",
    "signed by another key": "it is not signed by Debian's archive keys",
    "release changed": "it is not signed by Debian's archive keys",
    "expired": "its Release file is no longer valid",
    "index changed": "an index differs from the signed one",
}


@pytest.mark.parametrize("how", REFUSALS)
def test_a_mirror_that_cannot_be_trusted_is_refused_in_one_sentence(site: Site, how: str, tmp_path: Path) -> None:
    archive, store = site.archive, site.store
    if how == "unsigned":
        archive.publish(FIRST, signed=False)
    elif how == "signed by another key":
        with signed_archive(tmp_path / "stranger") as stranger:
            stranger.publish(FIRST)
            shutil.copytree(stranger.folder / "debian/dists", archive.folder / "debian/dists", dirs_exist_ok=True)
    elif how == "release changed":
        path = archive.index("trixie") / "InRelease"
        path.write_text(re.sub(r"(?m)^Suite: trixie$", "Suite: trixiE", path.read_text()))
    elif how == "expired":
        archive.publish(FIRST, valid_days=-1)
    else:
        path = archive.index("trixie") / "main/binary-amd64/Packages"
        path.write_text(path.read_text().replace("Version: 2.40", "Version: 2.41"))

    with pytest.raises(ImagebuilderError) as caught:
        site.lock()

    assert str(caught.value).startswith(f"the mirror {archive.url}/")
    assert REFUSALS[how] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert not (store.root / "files").exists()


def test_a_package_that_a_mirror_changed_is_refused_and_not_kept(site: Site) -> None:
    lock = site.lock()
    path = site.archive.file(FIRST[3])
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    with pytest.raises(ImagebuilderError, match=r"app_1_amd64\.deb is not the locked file") as caught:
        fetch(site.store, [p for p in lock.packages if p.name != "mkosi"], site.sources)

    assert "\n" not in str(caught.value)
    assert not site.store.has_file(lock.by_name["app"].sha256)
    assert site.store.has_file(lock.by_name["liba"].sha256)


def test_each_source_says_what_it_no_longer_has(site: Site, tmp_path: Path) -> None:
    lock = site.lock()
    packages = lock.by_name
    lock = lock.model_copy(update={"packages": tuple(p for p in lock.packages if p.name != "mkosi")})
    (tmp_path / "kept").mkdir()
    (tmp_path / "probe").mkdir()
    app = FIRST[3]
    shutil.move(site.archive.file(app), tmp_path / "kept/any name")
    site.archive.file(FIRST[4]).write_bytes(b"of another size")

    found = availability(
        site.store, lock, Sources(lambda: site.archive.mirrors, (Substituter(str(tmp_path / "kept")),)), tmp_path
    )
    store, debian, _security, substituter = found

    assert store.there == set()
    assert {p.name for p in debian.missing(lock)} == {"app", "tool"}
    assert substituter.there == {packages["app"].sha256}
    assert [p.name for p in gone(lock, found)] == ["tool"]
    assert "has 4 of 6" in str(debian)
    assert list(rotting(lock, found)) == [
        f"app 1: not on its mirror; still in substituter {tmp_path / 'kept'}",
        "tool 1: not on its mirror; to be had nowhere",
    ]


def test_what_the_mirror_dropped_comes_from_the_snapshot_archive(site: Site, tmp_path: Path) -> None:
    lock = site.lock()
    wanted = [lock.by_name["app"]]
    snapshots = site.archive.folder / "snapshots/debian"
    snapshots.mkdir(parents=True)
    before = f"{lock.epoch}"
    time = run(["date", "-u", "-d", f"@{before}", "+%Y%m%dT%H%M%SZ"]).text.strip()
    shutil.move(site.archive.folder / "debian", snapshots / time)
    base = f"{site.archive.url}/snapshots"

    with pytest.raises(MissingFilesError):
        fetch(site.store, wanted, site.sources, states=lock.states)
    sources = Sources(lambda: site.archive.mirrors, snapshot=base)
    fetch(site.store, wanted, sources, states=lock.states)

    assert site.store.has_file(wanted[0].sha256)
    assert availability(site.store, lock, sources, tmp_path)[-1].there >= {wanted[0].sha256}


def test_a_mirror_that_does_not_answer_is_told_from_one_that_lacks_files(site: Site, tmp_path: Path) -> None:
    lock = site.lock()
    nowhere = Sources(lambda: dict.fromkeys(Archive, "http://127.0.0.1:9/debian"))

    found = availability(site.store, lock, nowhere, tmp_path)

    assert [each.error is None for each in found] == [True, False, True]


def test_files_that_are_lost_fail_the_check_and_are_named(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = site.lock()
    for variable, archive in (("IMAGEBUILDER_MIRROR", "debian"), ("IMAGEBUILDER_SECURITY_MIRROR", "debian-security")):
        monkeypatch.setenv(variable, f"{site.archive.url}/{archive}")
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(site.store.root))
    monkeypatch.delenv("IMAGEBUILDER_SUBSTITUTERS", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(REFERENCE, tmp_path / "topology.toml")
    (tmp_path / "topology.lock").write_text(lock_text(lock))

    assert main(["lock", "--check", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["gone"] == ["mkosi 27.1-1"]
    assert [len(source["missing"]) for source in told["sources"]] == [7, 1, 0]

    without = lock.model_copy(update={"packages": tuple(p for p in lock.packages if p.name != "mkosi")})
    (tmp_path / "topology.lock").write_text(lock_text(without))
    assert main(["lock", "--check"]) == 0
    assert "has 6 of 6" in capsys.readouterr().out
