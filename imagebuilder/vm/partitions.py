"""Where things lie on an image. Runs sfdisk."""

import json
from dataclasses import dataclass

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import run
from imagebuilder.tools import Tools

BLOCK_BYTES = 4096
"""What dm-verity checks at a time."""
EROFS_SUPERBLOCK = 1024
"""Where erofs keeps its facts; the number of blocks is 36 bytes further (fs/erofs/erofs_fs.h)."""


@dataclass(frozen=True)
class Partition:
    """A partition with a file system."""

    offset: int
    """Of its first byte on the disk."""
    blocks: int
    """How many blocks its file system has."""


def root_partition(image: Image, tools: Tools) -> Partition:
    """Return the root partition of *image*."""
    said = run(tools.argv(["sfdisk", "--json", str(image.path)], read=[image.path])).text
    table = json.loads(said)["partitiontable"]
    for entry in table["partitions"]:
        offset = int(entry["start"]) * int(table.get("sectorsize", 512))
        with image.path.open("rb") as disk:
            disk.seek(offset + EROFS_SUPERBLOCK)
            superblock = disk.read(128)
        if superblock[:4] == bytes.fromhex("e2e1f5e0") and offset != image.secrets_offset:
            return Partition(offset, int.from_bytes(superblock[36:40], "little"))
    raise ImagebuilderError(f"{image.path} has no root partition with erofs")
