"""dm-verity's hash trees: of a whole file system by veritysetup, and from there of one that grew out of it.

The layout is version 1 of the kernel's Documentation/admin-guide/device-mapper/verity.rst behind cryptsetup's
superblock. An accept test compares what grew to what veritysetup makes, byte by byte.
"""

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from imagebuilder.run import run
from imagebuilder.tools import Tools

BLOCK_BYTES = 4096
"""Of data and of the hash tree."""
DIGEST_BYTES = 32
FANOUT = BLOCK_BYTES // DIGEST_BYTES
"""Digests in a block of the tree."""
# signature, version, hash type, UUID, algorithm, sizes of data and hash blocks, count of data blocks, salt and its size
SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")


def seal(tools: Tools, root: Path, tree: Path, *, salt: bytes, uuid: UUID) -> str:
    """Write the hash tree of the file system *root* to *tree*, beside it, and return the root hash (hex)."""
    command = ["veritysetup", "format", f"--salt={salt.hex()}", f"--uuid={uuid}", str(root), str(tree)]
    told = root.parent / "root-hash"
    run(tools.argv([*command, f"--root-hash-file={told}"], write=[root.parent]))
    return told.read_text().strip()


def regrown(tree: bytes, differing: Iterable[tuple[int, bytes]], size: int) -> tuple[bytes, str]:
    """Return the hash tree of a file system, and its root hash (hex).

    *tree* is that of another file system of at least two blocks, from which it differs by the *differing* blocks,
    offset and content each, and by its *size* in bytes, which is not less. Pure.
    """
    signature, version, kind, uuid, algorithm, data, block, count, length, padded = SUPERBLOCK.unpack_from(tree)
    assert (signature, version, kind, data, block) == (b"verity\0\0", 1, 1, BLOCK_BYTES, BLOCK_BYTES)
    salted = hashlib.new(algorithm.rstrip(b"\0").decode(), padded[:length])

    def digest(content: bytes) -> bytes:
        each = salted.copy()
        each.update(content)
        return each.digest()

    blocks = size // BLOCK_BYTES
    leaves = bytearray(tree[-_in_blocks(count) :][: count * DIGEST_BYTES])
    leaves += bytes((blocks - count) * DIGEST_BYTES)
    for offset, content in differing:
        for place in range(0, len(content), BLOCK_BYTES):
            at = (offset + place) // BLOCK_BYTES * DIGEST_BYTES
            leaves[at : at + DIGEST_BYTES] = digest(content[place : place + BLOCK_BYTES])
    levels = [bytes(leaves).ljust(_in_blocks(blocks), b"\0")]
    while len(levels[0]) > BLOCK_BYTES:
        below = levels[0]
        digests = b"".join(digest(below[at : at + BLOCK_BYTES]) for at in range(0, len(below), BLOCK_BYTES))
        levels.insert(0, digests.ljust(_in_blocks(len(digests) // DIGEST_BYTES), b"\0"))
    head = SUPERBLOCK.pack(signature, version, kind, uuid, algorithm, data, block, blocks, length, padded)
    return head.ljust(BLOCK_BYTES, b"\0") + b"".join(levels), digest(levels[0]).hex()


def _in_blocks(digests: int) -> int:
    """Return how many bytes of whole blocks that many *digests* take."""
    return -(-digests // FANOUT) * BLOCK_BYTES
