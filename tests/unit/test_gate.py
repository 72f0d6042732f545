"""The gate: what passed its test may leave as it is, anything else only loudly, and all of it is noted down."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imagebuilder.cli import main
from imagebuilder.errors import ImagebuilderError
from imagebuilder.generations import Generation
from imagebuilder.init import init
from imagebuilder.shipping.disks import Disk
from imagebuilder.shipping.gate import GateError, clear, record
from imagebuilder.statements.signing import TRUSTED_KEYS_VARIABLE, SigningKey, UntrustedError
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role
from tests.unit.images import SECRETS, SECRETS_SIZE, SIZE
from tests.unit.keys import ssh_pair
from tests.unit.shipping import attest, generation


@pytest.fixture
def built(tmp_path: Path) -> Generation:
    return generation(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_passed_may_leave(store: Store, built: Generation, capsys: pytest.CaptureFixture[str]) -> None:
    attest(store, built)

    cleared = clear(store, built, Role.PROXY)

    assert cleared.tested
    assert cleared.image.sha256 == built.digests[Role.PROXY]
    assert (cleared.image.secrets_offset, cleared.image.secrets_size) == (SECRETS, SECRETS_SIZE)
    assert "warning" not in capsys.readouterr().err


def test_what_was_not_tested_stays_with_the_next_command_as_a_hint(store: Store, built: Generation) -> None:
    with pytest.raises(GateError, match="generation 1 has not passed its test") as caught:
        clear(store, built, Role.PROXY)

    assert caught.value.hint is not None
    assert caught.value.hint.startswith("imagebuilder test --generation 1")


def test_untested_images_leave_only_with_a_warning(
    store: Store, built: Generation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not clear(store, built, Role.CLIENT, untested=True).tested
    assert "warning: generation 1 has not passed its test" in capsys.readouterr().err


@pytest.mark.parametrize("untested", [False, True])
def test_an_image_that_changed_after_its_test_never_leaves(store: Store, built: Generation, untested: bool) -> None:
    attest(store, built)
    path = built.record.images[Role.PROXY].path
    with path.open("r+b") as file:
        file.seek(9 * 2**20)
        file.write(b"x")

    with pytest.raises(GateError, match="has changed since it was built"):
        clear(store, built, Role.PROXY, untested=untested)
    assert clear(store, built, Role.CLIENT).tested


def test_an_image_that_was_cleaned_away_is_said_to_be_gone(store: Store, built: Generation) -> None:
    built.record.images[Role.PROXY].path.unlink()

    with pytest.raises(GateError, match="no longer in the store") as caught:
        clear(store, built, Role.PROXY)

    assert caught.value.hint == "imagebuilder build --generation 1"


def test_a_failed_test_and_a_test_of_other_images_clear_nothing(store: Store, built: Generation) -> None:
    attest(store, built, result="FAILED")
    with pytest.raises(GateError):
        clear(store, built, Role.PROXY)

    attest(store, built, other="7" * 64)
    with pytest.raises(GateError):
        clear(store, built, Role.PROXY)


def test_a_damaged_attestation_is_named(store: Store, built: Generation) -> None:
    path = attest(store, built)
    path.write_text("{}")

    with pytest.raises(ImagebuilderError, match="is no signed statement"):
        clear(store, built, Role.PROXY)


def test_whoever_trusts_certain_keys_takes_no_other_word(
    store: Store, built: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SigningKey(Ed25519PrivateKey.generate())
    trusted = tmp_path / "trusted.pub"
    monkeypatch.setenv(TRUSTED_KEYS_VARIABLE, str(trusted))
    attest(store, built, key=key)

    trusted.write_text(ssh_pair(tmp_path / "other") + "\n")
    with pytest.raises(UntrustedError):
        clear(store, built, Role.PROXY)

    trusted.write_text(public_line(key))
    assert clear(store, built, Role.PROXY).tested
    attest(store, built)
    with pytest.raises(UntrustedError, match="nobody has signed"):
        clear(store, built, Role.PROXY)


def public_line(key: SigningKey) -> str:
    return key.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + "\n"


def test_every_shipment_is_noted_even_two_at_a_time(store: Store, built: Generation) -> None:
    cleared = clear(store, built, Role.PROXY, untested=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: record(cleared, f"disk {number}"), range(40)))

    lines = [json.loads(line) for line in built.shipments.read_text().splitlines()]
    assert {line["where"] for line in lines} == {f"disk {number}" for number in range(40)}
    assert all(line["role"] == "proxy" and line["tested"] is False for line in lines)
    assert {line["sha256"] for line in lines} == {built.digests[Role.PROXY]}


# --- the command, up to the disk


@pytest.fixture
def site(built: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's topology; this machine has one free disk, a file of its own."""
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    disk = tmp_path / "sdx"
    disk.write_bytes(bytes(SIZE * 8))
    free = Disk(disk, "disk", SIZE * 8, "Ultra Fit", "4C5300", "usb")
    monkeypatch.setattr("imagebuilder.commands.flash.disks", lambda: (free,))
    monkeypatch.setattr("imagebuilder.commands.flash.needed_bytes", lambda image: image.size_bytes)
    # What makes the file system is a program of the tools, which this store has none of.
    monkeypatch.setattr("imagebuilder.commands.cargo.secrets_filesystem", lambda *_, **__: b"SECRETS")
    return tmp_path / "topology.toml"


def test_flash_writes_and_notes_where_it_went(
    site: Path, store: Store, built: Generation, capsys: pytest.CaptureFixture[str]
) -> None:
    attest(store, built)
    disk = site.parent / "sdx"

    assert main(["flash", "proxy", str(disk), "--yes", "--json", "-t", str(site)]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["tested"] is True
    assert told["device"] == str(disk)
    assert disk.read_bytes()[SECRETS : SECRETS + 8] == b"SECRETS\0"
    (shipment,) = built.shipped()
    assert "serial 4C5300" in str(shipment["where"])


def test_flash_without_a_device_lists_those_there_are_and_writes_nothing(
    site: Path, store: Store, built: Generation, capsys: pytest.CaptureFixture[str]
) -> None:
    attest(store, built)

    assert main(["flash", "proxy", "-t", str(site)]) == 0

    assert "Ultra Fit (usb)" in capsys.readouterr().out
    assert (site.parent / "sdx").read_bytes() == bytes(SIZE * 8)


@pytest.mark.parametrize("typed", ["", "y", "sdb", "yes"])
def test_flash_writes_nothing_unless_the_disks_name_is_typed(
    site: Path, store: Store, built: Generation, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attest(store, built)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdin.readline", lambda: f"{typed}\n")

    assert main(["flash", "proxy", str(site.parent / "sdx"), "-t", str(site)]) == 1
    assert (site.parent / "sdx").read_bytes() == bytes(SIZE * 8)

    monkeypatch.setattr("sys.stdin.readline", lambda: "sdx\n")
    assert main(["flash", "proxy", str(site.parent / "sdx"), "-t", str(site)]) == 0


def test_a_script_must_say_yes(site: Path, store: Store, built: Generation, capsys: pytest.CaptureFixture[str]) -> None:
    attest(store, built)

    assert main(["flash", "proxy", str(site.parent / "sdx"), "-t", str(site)]) == 1
    assert "hint: scripts say --yes" in capsys.readouterr().err


def test_secrets_of_another_topology_do_not_leave(
    site: Path, store: Store, built: Generation, capsys: pytest.CaptureFixture[str]
) -> None:
    attest(store, built)
    site.with_suffix(".secrets.toml").unlink()
    assert main(["flash", "proxy", str(site.parent / "sdx"), "--yes", "-t", str(site)]) == 1
    assert "there are no secrets at" in capsys.readouterr().err

    init(site, plain=True)
    assert main(["flash", "proxy", str(site.parent / "sdx"), "--yes", "-t", str(site)]) == 2
    said = capsys.readouterr().err
    assert "the secrets don't belong to generation 1" in said
    assert "the WireGuard key of the proxy" in said
    assert (site.parent / "sdx").read_bytes() == bytes(SIZE * 8)


def test_an_untested_shipment_is_noted_as_such(site: Path, built: Generation) -> None:
    assert main(["flash", "client", str(site.parent / "sdx"), "--yes", "-t", str(site)]) == 1
    assert main(["flash", "client", str(site.parent / "sdx"), "--yes", "--untested", "-t", str(site)]) == 0

    (shipment,) = built.shipped()
    assert (shipment["role"], shipment["tested"]) == ("client", False)
