"""Writing a disk: what is on it afterwards, and what is said when it fails. Files stand for disks where no root is."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.gpt import TABLE_BYTES
from imagebuilder.shipping.flash import flash
from imagebuilder.shipping.provision import MARGIN_BYTES, Provisioned
from imagebuilder.topology import Role
from tests.unit.images import MIB, SECRETS, SIZE, small_image

SECRET = b"SECRET" * 100
LARGE = SIZE + 9 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return small_image(tmp_path, Role.PROXY)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk that is full of old data."""
    path = tmp_path / "disk"
    path.write_bytes(b"old data" * (LARGE // 8))
    return path


def expected(provisioned: Provisioned) -> bytes:
    """Return the disk that *provisioned* makes of an empty one."""
    whole = bytearray(provisioned.size_bytes)
    for region in provisioned.regions():
        whole[region.offset : region.end] = region.data
    return bytes(whole)


def test_a_used_disk_becomes_the_image_with_the_secrets(image: Image, disk: Path) -> None:
    provisioned = Provisioned(image, SECRET, LARGE)

    done = flash(provisioned, disk)

    content, wanted = disk.read_bytes(), expected(provisioned)
    assert content[:SIZE] == wanted[:SIZE]
    assert content[-MARGIN_BYTES:] == wanted[-MARGIN_BYTES:]
    assert content[SECRETS : SECRETS + len(SECRET)] == SECRET
    assert done.written_bytes == provisioned.data_bytes()
    assert done.cleared_bytes > 0


def test_an_empty_disk_needs_no_clearing(image: Image, disk: Path) -> None:
    disk.write_bytes(bytes(LARGE))

    assert flash(Provisioned(image, SECRET, LARGE), disk).cleared_bytes == 0
    assert disk.read_bytes() == expected(Provisioned(image, SECRET, LARGE))


def failing(call: Callable[..., int], after: int, number: int) -> Callable[..., int]:
    """Return *call* that fails with the error *number* beyond the offset *after*, as a broken disk does."""

    def fail(descriptor: int, buffers: object, offset: int) -> int:
        if offset > after:
            raise OSError(number, os.strerror(number))
        return call(descriptor, buffers, offset)

    return fail


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_disk_that_fails_is_named_with_the_place_and_starts_no_machine(
    image: Image, disk: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.pwrite", failing(os.pwrite, int(SECRETS * share), errno.EIO))

    with pytest.raises(ImagebuilderError, match=r"disk can't be written at [\d,]+: input/output error") as caught:
        flash(Provisioned(image, SECRET, LARGE), disk)

    assert caught.value.hint is not None
    assert "flash again" in caught.value.hint
    assert disk.read_bytes()[:MARGIN_BYTES] == bytes(MARGIN_BYTES)


def test_a_disk_that_is_pulled_out_is_said_to_be_gone(
    image: Image, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.pwrite", failing(os.pwrite, SECRETS // 2, errno.ENODEV))

    with pytest.raises(ImagebuilderError, match="is gone in the middle of a write"):
        flash(Provisioned(image, SECRET, LARGE), disk)


def test_a_disk_that_vanishes_while_it_is_read_back_is_said_to_be_gone(
    image: Image, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.preadv", failing(os.preadv, SECRETS // 2, errno.ENXIO))

    with pytest.raises(ImagebuilderError, match="is gone in the middle of a read"):
        flash(Provisioned(image, SECRET, LARGE), disk)


def test_a_disk_that_loses_a_bit_is_found_out_and_starts_no_machine(
    image: Image, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def lose_a_bit(descriptor: int) -> None:
        flush(descriptor)
        with disk.open("r+b") as file:
            file.seek(8 * MIB + 77)
            byte = file.read(1)[0]
            file.seek(8 * MIB + 77)
            file.write(bytes([byte ^ 1]))

    monkeypatch.setattr("os.fsync", lose_a_bit)
    with pytest.raises(ImagebuilderError, match="gives back other bytes than were written"):
        flash(Provisioned(image, SECRET, LARGE), disk)

    assert disk.read_bytes()[:MARGIN_BYTES] == bytes(MARGIN_BYTES)


def test_another_disk_in_its_place_is_not_touched(image: Image, disk: Path) -> None:
    before = disk.read_bytes()

    with pytest.raises(ImagebuilderError, match="it is another disk than a moment ago"):
        flash(Provisioned(image, SECRET, LARGE + MIB), disk)

    assert disk.read_bytes() == before


def test_a_missing_disk_is_one_sentence(image: Image, tmp_path: Path) -> None:
    with pytest.raises(ImagebuilderError, match="can't be opened: no such file"):
        flash(Provisioned(image, SECRET, LARGE), tmp_path / "nothing")


def test_the_old_table_at_the_end_of_the_image_is_gone_on_a_larger_disk(image: Image, disk: Path) -> None:
    flash(Provisioned(image, SECRET, LARGE), disk)

    assert disk.read_bytes()[SIZE - TABLE_BYTES : SIZE] == bytes(TABLE_BYTES)
