"""Outputs and files that travel between stores, honestly and not."""

import json
import os
import random
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Set
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.cli import main
from imagebuilder.errors import ImagebuilderError
from imagebuilder.fetch import MissingFilesError, Sources, fetch
from imagebuilder.plan import Derivation
from imagebuilder.statements.signing import SigningKey
from imagebuilder.store.folder import Store
from imagebuilder.store.manifest import manifest_of
from imagebuilder.store.sharing import offer, offer_files, take, unmade
from imagebuilder.store.substituter import Substituter, UnreachableError, locations_in
from tests.unit.signed_archive import served
from tests.unit.test_fetch import package
from tests.unit.test_generations import planned
from tests.unit.test_manifest import output

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"
STEP, OTHER = Derivation("thing", {"a": 1}), Derivation("other", {})


@pytest.mark.parametrize(
    ("text", "locations"),
    [
        ("", []),
        ("/a:/b:", ["/a", "/b"]),
        ("relative:/with space", ["relative", "/with space"]),
        ("https://a.example/x:/b", ["https://a.example/x", "/b"]),
        ("/a:http://127.0.0.1:8080:/b", ["/a", "http://127.0.0.1:8080", "/b"]),
        ("http://a.example:8080/x:s3://bucket/y:/b", ["http://a.example:8080/x", "s3://bucket/y", "/b"]),
        ("sftp://me:secret@a.example:22/x:/b", ["sftp://me:secret@a.example:22/x", "/b"]),
        ("http://[2001:db8::1]:80/x:/b", ["http://[2001:db8::1]:80/x", "/b"]),
        ("file:///a:simplecache::s3://b/c:d", ["file:///a", "simplecache::s3://b/c", "d"]),
        ("memory://x", ["memory://x"]),
    ],
)
def test_folders_and_urls_stand_side_by_side(text: str, locations: list[str]) -> None:
    assert list(locations_in(text)) == locations


@given(st.lists(st.sampled_from(["/a", "b/c", "http://h:1/p", "https://h/p", "s3://b", "memory://m"]), max_size=6))
def test_what_is_joined_by_colons_is_taken_apart_again(locations: list[str]) -> None:
    assert list(locations_in(":".join(locations))) == locations


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


def fill(folder: Path) -> None:
    output(folder)


def fill_with(folder: Path, content: bytes) -> None:
    (folder / "large").write_bytes(content)


@pytest.fixture
def ours(tmp_path: Path) -> Store:
    store = Store(tmp_path / "ours")
    store.output(STEP, fill)
    return store


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return Store(tmp_path / "theirs")


@pytest.fixture(params=["folder", "file", "memory", "http"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Substituter, Substituter]]:
    """Where to push, and whence to pull."""
    folder = tmp_path / "shared"
    url = {"folder": str(folder), "file": f"file://{folder}", "memory": f"memory://{uuid.uuid4().hex}"}
    if request.param == "http":
        folder.mkdir()
        with served(folder) as http:
            yield Substituter(str(folder)), Substituter(http)
    else:
        yield Substituter(url[request.param]), Substituter(url[request.param])


def test_an_output_that_is_signed_and_trusted_is_taken_as_it_was_made(
    places: tuple[Substituter, Substituter], ours: Store, theirs: Store, key: SigningKey
) -> None:
    there, whence = places

    assert offer(ours, [STEP, OTHER], there, key) == ([STEP], [])
    assert offer(ours, [STEP], there, key) == ([], [STEP])
    assert take(theirs, STEP, [whence], [key.public])
    assert not take(theirs, OTHER, [whence], [key.public])

    assert manifest_of(theirs.path(STEP)) == manifest_of(ours.path(STEP))
    assert theirs.manifest(STEP).read_text() == ours.manifest(STEP).read_text()


def test_a_large_output_comes_from_a_server_that_knows_no_ranges(
    ours: Store, theirs: Store, key: SigningKey, tmp_path: Path
) -> None:
    content = random.Random(1).randbytes(7 * 2**20)
    ours.output(OTHER, lambda folder: fill_with(folder, content))
    offer(ours, [OTHER], Substituter(str(tmp_path / "shared")), key)

    with served(tmp_path / "shared") as url:
        assert take(theirs, OTHER, [Substituter(url)], [key.public])

    assert (theirs.path(OTHER) / "large").read_bytes() == content


def test_files_are_pushed_once_and_found_by_hash(
    places: tuple[Substituter, Substituter], ours: Store, theirs: Store, tmp_path: Path
) -> None:
    there, whence = places
    wanted = package("a", b"aaa")
    (tmp_path / "x").write_bytes(b"aaa")
    ours.add_file(tmp_path / "x", wanted.sha256)

    assert offer_files(ours, [wanted, package("b", b"bbb")], there) == 1
    assert offer_files(ours, [wanted], there) == 0
    assert whence.files([(wanted.sha256, 3), ("0" * 64, 3)]) == {wanted.sha256}
    fetch(theirs, [wanted], Sources(dict, (whence,)))

    assert theirs.file(wanted.sha256).read_bytes() == b"aaa"


def test_what_a_killed_push_left_is_swept_a_day_later(ours: Store, tmp_path: Path) -> None:
    incoming = tmp_path / "shared/incoming"
    incoming.mkdir(parents=True)
    for name, age_s in (("old", 90_000), ("new", 10)):
        (incoming / name).touch()
        os.utime(incoming / name, (time.time() - age_s,) * 2)
    (tmp_path / "x").write_bytes(b"aaa")

    Substituter(str(tmp_path / "shared")).put(tmp_path / "x", "files/x")

    assert [path.name for path in incoming.iterdir()] == ["new"]


@pytest.fixture
def shared(tmp_path: Path, ours: Store, key: SigningKey) -> Substituter:
    there = Substituter(str(tmp_path / "shared"))
    offer(ours, [STEP], there, key)
    return there


def refused(store: Store, there: Substituter, keys: list[SigningKey], capsys: pytest.CaptureFixture[str]) -> str:
    assert not take(store, STEP, [there], [key.public for key in keys])
    assert not store.has(STEP)
    assert list((store.root / "tmp").iterdir()) == []
    return capsys.readouterr().err


def test_without_a_trusted_key_nothing_is_used_and_that_is_said(
    shared: Substituter, theirs: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    substituters = [shared]

    assert not any(take(theirs, STEP, substituters, []) for _ in range(3))

    assert not theirs.has(STEP)
    assert substituters == []
    # once, not for each step
    assert capsys.readouterr().err.count("as no key is trusted: name some by IMAGEBUILDER_TRUSTED_KEYS") == 1


def test_the_signature_of_a_stranger_is_not_enough(
    shared: Substituter, theirs: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = SigningKey(Ed25519PrivateKey.generate())

    assert "is not used: no trusted key has signed this" in refused(theirs, shared, [stranger], capsys)


def test_other_bytes_in_a_cache_are_not_used(
    shared: Substituter, theirs: Store, key: SigningKey, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (archive,) = (tmp_path / "shared/archives").iterdir()
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)

    assert "is not the one that was signed" in refused(theirs, shared, [key], capsys)


def test_an_archive_that_is_larger_than_signed_is_not_read_to_its_end(
    shared: Substituter, theirs: Store, key: SigningKey, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (archive,) = (tmp_path / "shared/archives").iterdir()
    archive.write_bytes(archive.read_bytes() + b"x")

    assert "is larger than it may be" in refused(theirs, shared, [key], capsys)


def test_what_was_signed_for_another_derivation_is_not_used(
    shared: Substituter, theirs: Store, key: SigningKey, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    outputs = tmp_path / "shared/outputs"
    (outputs / f"{STEP}.json").rename(outputs / f"{OTHER}.json")
    offer_again = Store(tmp_path / "again")
    offer_again.output(OTHER, lambda folder: (folder / "evil").touch())
    offer(offer_again, [OTHER], Substituter(str(tmp_path / "elsewhere")), key)
    shutil.copyfile(tmp_path / f"elsewhere/outputs/{OTHER}.json", outputs / f"{STEP}.json")

    assert f"what is signed there is {OTHER}" in refused(theirs, shared, [key], capsys)


def test_an_envelope_that_is_none_is_not_used(
    shared: Substituter, theirs: Store, key: SigningKey, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / f"shared/outputs/{STEP}.json").write_text("{}")

    assert "is no signed statement" in refused(theirs, shared, [key], capsys)


def test_an_output_that_changed_since_it_was_made_is_never_signed(ours: Store, key: SigningKey, tmp_path: Path) -> None:
    (ours.path(STEP) / "usr/bin/tool").write_text("changed")

    with pytest.raises(ImagebuilderError, match="has changed since it was made"):
        offer(ours, [STEP], Substituter(str(tmp_path / "shared")), key)
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "nonesuch://x", "https://a..b/", "/no/such/folder"])
def test_a_substituter_that_cannot_be_reached_is_told_once_and_passed_over(
    url: str, theirs: Store, key: SigningKey, capsys: pytest.CaptureFixture[str]
) -> None:
    substituters = [Substituter(url)]

    assert not take(theirs, STEP, substituters, [key.public])
    assert substituters == []
    assert f"the substituter {url} can't be reached: " in capsys.readouterr().err
    with pytest.raises(MissingFilesError):
        fetch(theirs, [package("a", b"aaa")], Sources(dict, (Substituter(url),)))


def test_a_full_disk_here_is_not_blamed_on_the_substituter(shared: Substituter) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        shared.get(f"outputs/{STEP}.json", Path("/dev/full"), limit=2**20)


def test_a_substituter_that_cannot_be_written_is_one_sentence(ours: Store, key: SigningKey, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("a file where a folder should be")

    with pytest.raises(UnreachableError) as refused:
        offer(ours, [STEP], Substituter(str(tmp_path / "shared")), key)
    assert str(refused.value) == f"the substituter {tmp_path}/shared can't be written: not a directory"
    assert refused.value.hint is None


def test_nothing_is_made_for_images_that_are_there() -> None:
    plan = planned()
    have = [plan.tools, *(role.image for role in plan.roles.values())]

    assert unmade(plan, lambda step: step in have) == ()
    assert unmade(plan, lambda step: False) == plan.steps


@given(st.sets(st.integers(0, 12)))
def test_what_is_made_finds_all_that_it_is_made_from(present: Set[int]) -> None:
    plan = planned()
    have = {str(step) for number, step in enumerate(plan.steps) if number in present}
    rest = {str(step) for step in unmade(plan, lambda step: str(step) in have)}
    after = have | rest

    assert not have & rest
    assert str(plan.tools) in after
    for role in plan.roles.values():
        assert str(role.image) in after
        if str(role.image) in rest:
            assert {str(role.base), str(role.frame), str(role.difference)} <= after
        if str(role.frame) in rest:
            assert str(role.initrd) in after
        if str(role.base) in rest and role.base.inputs["node_modules"]:
            assert str(plan.node_modules) in after
    if str(plan.node_modules) in rest:
        assert str(plan.npm_cache) in after


@pytest.fixture
def site(site: Path) -> Path:
    """With a key that signs."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", site / "key"], check=True)
    return site


def test_what_one_store_pushes_another_one_pulls(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = planned().steps
    for step in steps[:3]:
        Store(site / "store").output(step, fill)

    assert main(["store", "push", "shared", "--sign-with", "key", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"outputs": [str(step) for step in steps[:3]], "files": 0}
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(site / "theirs"))
    assert main(["store", "pull", "nowhere", "--trusted-keys", "key.pub"]) == 2
    assert capsys.readouterr().err == "error: there is no folder nowhere\n"
    assert main(["store", "pull", "shared"]) == 1
    assert "as no key is trusted" in capsys.readouterr().err
    assert main(["store", "pull", "shared", "--files-only"]) == 1
    capsys.readouterr()
    assert main(["store", "pull", "shared", "--trusted-keys", "key.pub"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(step) for step in steps[:3]]
    assert err.splitlines()[-1].startswith(
        "not pulled: proxy-initrd, proxy-base, proxy-frame, proxy-difference, client-"
    )
    assert all(Store(site / "theirs").has(step) for step in steps[:3])


def test_outputs_are_not_pushed_unsigned(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "push", "shared"]) == 2
    assert "hint: name one by --sign-with" in capsys.readouterr().err
    assert main(["store", "push", "shared", "--files-only"]) == 0


@pytest.mark.parametrize("argv", [["push"], ["pull"], ["verify", "shared"]])
def test_a_url_is_wanted_just_where_it_means_something(
    site: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"error: store {argv[0]} ")
