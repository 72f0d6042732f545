"""Where the root file system lies on an image. Reads its partition table."""

from dataclasses import dataclass

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.gpt import HEAD_BYTES, spans

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
        for span in spans(disk.read(HEAD_BYTES)):
            disk.seek(span.offset + EROFS_SUPERBLOCK)
            superblock = disk.read(128)
            if superblock[:4] == EROFS_MAGIC:
                return Partition(span.offset, int.from_bytes(superblock[36:40], "little"))
    raise ImagebuilderError(f"{image.path} has no root partition with erofs")
