"""A disk of the kernel's own: flashed, read by util-linux, failing, filled up. Needs root for loop devices."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.shipping.disks import disks, named, refusal
from imagebuilder.shipping.flash import flash
from imagebuilder.shipping.provision import Provisioned
from imagebuilder.topology import Role
from tests.unit.images import MIB, PARTITIONS, SECRETS, SIZE, small_image

pytestmark = [
    pytest.mark.accept,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="loop devices need root"),
]
LARGE = SIZE + 9 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return small_image(tmp_path, Role.PROXY)


@contextmanager
def loop(file: Path, *options: str) -> Iterator[Path]:
    """Yield the loop device of *file*."""
    argv = ["losetup", "--find", "--show", *options, str(file)]
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def full_of_old_data(path: Path) -> Path:
    path.write_bytes(b"old data" * (LARGE // 8))
    return path


def test_util_linux_sees_the_partitions_and_the_bytes_are_the_images(image: Image, tmp_path: Path) -> None:
    with loop(full_of_old_data(tmp_path / "disk")) as device:
        provisioned = Provisioned(image, b"SECRET", LARGE)

        flash(provisioned, device)

        whole = bytearray(SIZE)
        for region in provisioned.regions():
            if region.offset < SIZE:
                whole[region.offset : region.end] = region.data
        assert device.read_bytes()[:SIZE] == bytes(whole[:SIZE])
        listed = subprocess.run(["partx", "-g", "-o", "NAME", "-s", device], check=True, capture_output=True, text=True)
        assert listed.stdout.split() == [name for name, *_ in PARTITIONS]


def test_lsblk_knows_it_and_a_mounted_one_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(64 * MIB)
    with loop(tmp_path / "disk") as device:
        assert refusal(named(device, disks()), needed_bytes=LARGE) is None
        assert (
            refusal(named(device, disks()), needed_bytes=65 * MIB)
            == "it holds 67,108,864 bytes, the system needs 68,157,440"
        )
        subprocess.run(["mkfs.ext4", "-q", str(device)], check=True)
        place = tmp_path / "mounted"
        place.mkdir()
        subprocess.run(["mount", device, place], check=True)
        try:
            assert refusal(named(device, disks()), needed_bytes=LARGE) == f"it is mounted at {place}"
            with pytest.raises(ImagebuilderError, match="is in use by something on this machine"):
                flash(Provisioned(Image(Role.PROXY, place, "", 1, "", 1, 1), b"", 64 * MIB), device)
        finally:
            subprocess.run(["umount", place], check=True)


def test_two_at_once_do_not_mix(image: Image, tmp_path: Path) -> None:
    with loop(full_of_old_data(tmp_path / "disk")) as device:
        other = os.open(device, os.O_RDWR | os.O_EXCL)
        try:
            with pytest.raises(ImagebuilderError, match="is in use by something"):
                flash(Provisioned(image, b"SECRET", LARGE), device)
        finally:
            os.close(other)
        assert device.read_bytes()[:8] == b"old data"


def test_a_write_protected_disk_is_refused_and_not_written(image: Image, tmp_path: Path) -> None:
    with loop(full_of_old_data(tmp_path / "disk"), "--read-only") as device:
        assert refusal(named(device, disks()), needed_bytes=LARGE) == "it is write-protected"
        with pytest.raises(ImagebuilderError, match=r"can't be (opened|written at 0)"):
            flash(Provisioned(image, b"SECRET", LARGE), device)


def test_a_disk_that_takes_no_more_in_the_middle_is_one_sentence_and_starts_nothing(
    image: Image, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=True)
    try:
        with (small / "disk").open("wb") as file:
            file.truncate(LARGE)
        with loop(small / "disk") as device:
            with pytest.raises(ImagebuilderError, match=rf"{device} can't be written") as caught:
                flash(Provisioned(image, b"SECRET", LARGE), device)
            assert "flash again" in str(caught.value.hint)
            assert "\n" not in str(caught.value)
            assert (small / "disk").read_bytes()[:MIB] == bytes(MIB)
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_disk_that_ends_in_the_middle_of_reading_back_is_one_sentence(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flush = full_of_old_data(tmp_path / "disk"), os.fsync

    def lose_the_end(descriptor: int) -> None:
        flush(descriptor)
        os.truncate(path, SECRETS)

    with loop(path) as device:
        monkeypatch.setattr("os.fsync", lose_the_end)
        with pytest.raises(ImagebuilderError, match=rf"{device} (can't be read|gives back other bytes)"):
            flash(Provisioned(image, b"SECRET", LARGE), device)
