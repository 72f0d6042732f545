"""Where things lie on an image. Reads its partition table."""

import struct
from dataclasses import dataclass

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError

SECTOR_BYTES = 512
BLOCK_BYTES = 4096
"""What dm-verity checks at a time."""
EROFS_SUPERBLOCK = 1024
"""Where erofs keeps its facts; the number of blocks is 36 bytes further (fs/erofs/erofs_fs.h)."""
EROFS_MAGIC = bytes.fromhex("e2e1f5e0")


@dataclass(frozen=True)
class Partition:
    """A partition with a file system."""

    offset: int
    """Of its first byte on the disk."""
    blocks: int
    """How many blocks its file system has."""


def root_partition(image: Image) -> Partition:
    """Return the root partition of *image*, which is the one with erofs in it."""
    with image.path.open("rb") as disk:
        disk.seek(SECTOR_BYTES)
        header = disk.read(92)  # UEFI 2.10 section 5.3.2
        table, entries, entry_bytes = struct.unpack_from("<QII", header, 72)
        for number in range(entries):
            disk.seek(table * SECTOR_BYTES + number * entry_bytes + 32)
            offset = int.from_bytes(disk.read(8), "little") * SECTOR_BYTES
            disk.seek(offset + EROFS_SUPERBLOCK)
            superblock = disk.read(128)
            if offset and superblock[:4] == EROFS_MAGIC:
                return Partition(offset, int.from_bytes(superblock[36:40], "little"))
    raise ImagebuilderError(f"{image.path} has no root partition with erofs")
