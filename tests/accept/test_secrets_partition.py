"""The secrets partition: erofs-utils and QEMU's own programs make and read it, and no disk sees a plain secret."""

from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import run
from imagebuilder.shipping.provision import secrets_filesystem
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm.disks import overlay, provision, raw
from tests.unit.images import SECRETS, small_image

pytestmark = pytest.mark.accept

CREDENTIALS = {"ssh.hostkey": b"the host's key\n" * 40, "mailboxes.passwd": b"alice::::::\n"}


def test_the_credentials_come_out_as_they_went_in_and_only_root_can_read_them(tools: Tools, tmp_path: Path) -> None:
    filesystem, folder = tmp_path / "secrets.erofs", tmp_path / "out"
    filesystem.write_bytes(secrets_filesystem(tools, CREDENTIALS, limit_bytes=2**20))

    argv = ["fsck.erofs", f"--extract={folder}", "--preserve-perms", str(filesystem)]
    run(tools.argv(argv, write=[tmp_path]))

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CREDENTIALS
    assert {path.stat().st_mode & 0o7777 for path in folder.iterdir()} == {0o400}
    assert folder.stat().st_mode & 0o7777 == 0o700


def test_the_same_credentials_give_the_same_bytes_in_any_order(tools: Tools) -> None:
    other = dict(reversed(CREDENTIALS.items()))

    assert secrets_filesystem(tools, CREDENTIALS, limit_bytes=2**20) == secrets_filesystem(
        tools, other, limit_bytes=2**20
    )


def test_more_secrets_than_the_partition_holds_are_refused(tools: Tools) -> None:
    with pytest.raises(ImagebuilderError, match="there is room for 1,000"):
        secrets_filesystem(tools, CREDENTIALS, limit_bytes=1000)


def test_a_machines_disk_gets_them_and_the_image_stays_as_it_was(tools: Tools, tmp_path: Path) -> None:
    image = small_image(tmp_path, Role.CLIENT)
    before, disk, whole = image.path.read_bytes(), tmp_path / "disk.qcow2", tmp_path / "disk.raw"
    overlay(tools, raw(image.path), disk)

    provision(tools, image, CREDENTIALS, disk)

    run(tools.argv(["qemu-img", "convert", "-O", "raw", str(disk), str(whole)], write=[tmp_path]))
    filesystem = secrets_filesystem(tools, CREDENTIALS, limit_bytes=2**20)
    with whole.open("rb") as file:
        assert file.read(len(before)) == before[:SECRETS] + filesystem + before[SECRETS + len(filesystem) :]
    assert image.path.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"client.raw", "disk.qcow2", "disk.raw"}
