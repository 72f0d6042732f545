"""What is on a disk or a host is held against a generation: secrets and /var may differ, nothing else."""

import json
import subprocess
from pathlib import Path

import pytest

from imagebuilder.build.image import Image
from imagebuilder.cli import main
from imagebuilder.errors import ImagebuilderError
from imagebuilder.shipping.flash import flash
from imagebuilder.shipping.provision import Provisioned
from imagebuilder.shipping.remote import Address
from imagebuilder.shipping.residence import SCRIPT, differences_on_disk, judged, questions, resident
from imagebuilder.topology import Role
from imagebuilder.topology.public import RoleKeys
from tests.unit.images import MIB, SECRETS, SIZE, small_image
from tests.unit.shipping import generation

LARGE = SIZE + 9 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return small_image(tmp_path, Role.PROXY)


@pytest.fixture
def disk(image: Image, tmp_path: Path) -> Path:
    """A disk that *image* was flashed to."""
    path = tmp_path / "disk"
    path.write_bytes(b"old data" * (LARGE // 8))
    flash(Provisioned(image, b"SECRET", LARGE), path)
    return path


def change(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def said_by(disk: Path, image: Image, *, root_hash: str = "") -> str:
    """Return what the script says on a host with *disk* that was started with *root_hash*."""
    argv = ["sh", "-c", SCRIPT, "sh", str(disk)]
    said = subprocess.run(argv, input=questions(image), text=True, capture_output=True, check=True).stdout
    _, *hashes = said.splitlines()
    return "\n".join((f"roothash {root_hash or image.root_hash}", *hashes))


def test_a_flashed_disk_is_the_image_although_it_is_larger_and_has_secrets(image: Image, disk: Path) -> None:
    assert differences_on_disk(image, disk) == ()
    assert judged(image, said_by(disk, image)) == ()


def test_secrets_and_what_lies_behind_the_image_may_be_anything(image: Image, disk: Path) -> None:
    change(disk, SECRETS + 5)
    change(disk, SIZE + MIB)

    assert differences_on_disk(image, disk) == ()
    assert judged(image, said_by(disk, image)) == ()


@pytest.mark.parametrize(
    ("place", "name"), [(17, "boot code"), (2 * MIB, "esp"), (8 * MIB + 9, "root"), (17 * MIB, "root")]
)
def test_one_bit_that_differs_is_found_and_its_partition_named(image: Image, disk: Path, place: int, name: str) -> None:
    change(disk, place)

    assert differences_on_disk(image, disk) == (f"{name}: other bytes",)
    assert judged(image, said_by(disk, image)) == (f"{name}: other bytes",)


def test_a_host_that_runs_from_another_root_is_found(image: Image, disk: Path) -> None:
    assert judged(image, said_by(disk, image, root_hash="cd" * 32)) == (f"it runs from the root {'cd' * 32}",)


def test_a_host_that_says_nothing_has_proven_nothing(image: Image) -> None:
    assert len(judged(image, "")) == 4


def test_a_disk_with_another_table_is_told_partition_by_partition(image: Image, tmp_path: Path) -> None:
    other = tmp_path / "other"
    head = image.path.read_bytes()
    other.write_bytes(head)
    assert differences_on_disk(image, other) == ()
    other.write_bytes(bytes(SIZE))
    with pytest.raises(ImagebuilderError, match="no table of partitions"):
        differences_on_disk(image, other)
    with pytest.raises(ImagebuilderError, match="can't be read: no such file"):
        differences_on_disk(image, tmp_path / "nothing")


def test_a_host_that_is_not_there_is_one_sentence() -> None:
    keys = RoleKeys[str](proxy="ssh-ed25519 AAAA", client="ssh-ed25519 AAAA")
    with (
        pytest.raises(ImagebuilderError, match=r"127\.0\.0\.1:1 can't be reached|there is no program 'ssh'"),
        resident(Address("127.0.0.1", "nobody", 1), Role.PROXY, keys),
    ):
        pass


def test_the_command_tells_generation_and_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built, site, disk = generation(tmp_path), str(tmp_path / "topology.toml"), tmp_path / "disk"
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    disk.write_bytes(built.record.images[Role.PROXY].path.read_bytes())

    assert main(["verify", "proxy", "--disk", str(disk), "-t", site]) == 0
    assert "is the proxy of generation 1" in capsys.readouterr().out
    assert main(["verify", "client", "--disk", str(disk), "--json", "-t", site]) == 1
    assert json.loads(capsys.readouterr().out)["differences"]
    assert main(["verify", "--disk", str(disk), "-t", site]) == 2
