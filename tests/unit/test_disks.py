"""Disks as lsblk shows them: which are offered, and why the others are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagebuilder.shipping.disks import Disk, NoDiskError, candidates, named, parsed, refusal

GB = 10**9
STICK = Disk(Path("/dev/sdb"), "disk", 16 * GB, "Ultra Fit", "4C5300", "usb")


def node(path: str, kind: str = "disk", **more: object) -> dict[str, Any]:
    """Return a device as lsblk --json has it."""
    empty = dict.fromkeys(("model", "serial", "tran", "pttype", "fstype", "label", "partlabel"))
    base: dict[str, Any] = {
        "path": path,
        "type": kind,
        "size": 16 * GB,
        "ro": False,
        "log-sec": 512,
        "mountpoints": [None],
    }
    return {**base, **empty, **more}


def lsblk(*nodes: dict[str, Any]) -> str:
    return json.dumps({"blockdevices": nodes})


MACHINE = lsblk(
    node(
        "/dev/nvme0n1", size=512 * GB, model="Samsung", children=[
            node("/dev/nvme0n1p1", "part", fstype="vfat", mountpoints=["/boot/efi"]),
            node("/dev/nvme0n1p2", "part", fstype="crypto_LUKS", children=[
                node("/dev/mapper/root", "crypt", fstype="ext4", mountpoints=["/"]),
            ]),
        ],
    ),
    node(
        "/dev/sdb", model="Ultra Fit ", serial="4C5300", tran="usb", children=[
            node("/dev/sdb1", "part", size=2**30, fstype="vfat", label="PHOTOS"),
        ],
    ),
    node("/dev/sdc", tran="usb", children=[node("/dev/sdc1", "part", mountpoints=["/media/stick"])]),
    node("/dev/sdd", children=[node("/dev/md0", "raid1")]),
    node("/dev/sde", size=0),
    node("/dev/sr0", "rom"),
    node("/dev/zram0", mountpoints=["[SWAP]"]),
    node("/dev/zram1"),
)  # fmt: skip


def test_only_disks_that_nobody_uses_are_offered() -> None:
    assert [disk.name for disk in candidates(parsed(MACHINE), needed_bytes=4 * GB)] == ["sdb"]


def test_a_disk_is_told_by_model_size_serial_and_what_is_on_it() -> None:
    (disk,) = candidates(parsed(MACHINE), needed_bytes=4 * GB)

    assert str(disk) == "/dev/sdb: Ultra Fit (usb), 16.0 GB, serial 4C5300; vfat 'PHOTOS' 1,024 MiB"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nvme0n1", "this machine runs from it"),
        ("nvme0n1p2", "it is a partition of /dev/nvme0n1; an image takes a whole disk"),
        ("sdc", "it is mounted at /media/stick"),
        ("sdd", "it is in use by /dev/md0"),
        ("sde", "there is no medium in it"),
        ("sr0", "it is no disk but of the kind 'rom'"),
        ("zram0", "it is mounted at [SWAP]"),
    ],
)
def test_every_other_device_is_refused_with_its_reason(name: str, reason: str) -> None:
    assert refusal(named(Path(name), parsed(MACHINE)), needed_bytes=4 * GB) == reason


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (replace(STICK, size_bytes=2 * GB), "it holds 2,000,000,000 bytes, the system needs 4,000,000,000"),
        (replace(STICK, read_only=True), "it is write-protected"),
        (replace(STICK, sector_bytes=4096), "its sectors have 4,096 bytes, the image is made for 512"),
    ],
)
def test_a_disk_that_could_not_start_is_refused(disk: Disk, reason: str) -> None:
    assert refusal(STICK, needed_bytes=4 * GB) is None
    assert refusal(disk, needed_bytes=4 * GB) == reason


def test_a_disk_is_known_by_any_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "by-id").symlink_to("/dev/sdb")

    for name in ("sdb", "/dev/sdb", str(tmp_path / "by-id")):
        assert named(Path(name), parsed(MACHINE)).path == Path("/dev/sdb")


def test_what_is_no_disk_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(NoDiskError, match="file is no disk"):
        named(tmp_path / "file", parsed(MACHINE))
    with pytest.raises(NoDiskError, match="sdx does not exist"):
        named(Path("sdx"), parsed(MACHINE))
