"""A small disk image, laid out as the real ones are: a table, data, a hole, an empty partition for secrets."""

import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from imagebuilder.build.image import Image
from imagebuilder.store.hashing import sha256_of
from imagebuilder.topology import Role

MIB = 2**20
SIZE, SECRETS, SECRETS_SIZE = 24 * MIB, 20 * MIB, 2 * MIB
PARTITIONS = (
    ("esp", UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), MIB, 6 * MIB),
    ("root", UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), 8 * MIB, 10 * MIB),
    ("secrets", UUID("8c1ad1d4-3c0e-4f5b-9d0b-6a2c5e7f1b90"), SECRETS, SECRETS_SIZE),
)


def table(size: int, partitions: Sequence[tuple[str, UUID, int, int]] = PARTITIONS) -> tuple[bytes, bytes]:
    """Return the first 34 and the last 33 sectors of a disk of *size* bytes with *partitions* (UEFI 2.10 section 5.3).

    A partition is (label, type, offset, length), the last two in bytes.
    """
    entries = b"".join(
        kind.bytes_le + UUID(int=number + 1).bytes_le
        + struct.pack("<QQQ", offset // 512, (offset + length) // 512 - 1, 0)
        + name.encode("utf-16-le").ljust(72, b"\0")
        for number, (name, kind, offset, length) in enumerate(partitions)
    ).ljust(16384, b"\0")  # fmt: skip
    last = size // 512 - 1

    def header(own: int, other: int, where: int) -> bytes:
        ends = struct.pack("<QQQQ", own, other, 34, last - 33)
        rest = UUID(int=99).bytes_le + struct.pack("<QIII", where, 128, 128, zlib.crc32(entries))
        start = b"EFI PART" + struct.pack("<II", 0x10000, 92)
        check = zlib.crc32(start + bytes(8) + ends + rest)
        return (start + struct.pack("<II", check, 0) + ends + rest).ljust(512, b"\0")

    covering = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, last)
    boot = (b"code".ljust(446, b"\x90") + covering).ljust(510, b"\0") + b"\x55\xaa"
    return boot + header(1, last, 2) + entries, entries + header(last, 1, last - 32)


def small_image(folder: Path, role: Role) -> Image:
    """Return an image of *role* in *folder* with data in the first two of its three partitions, and holes."""
    path, chance = folder / f"{role}.raw", random.Random(str(role))
    head, tail = table(SIZE)
    pieces = {place: chance.randbytes(5 * MIB // 4) for place in (1 * MIB, 8 * MIB, 13 * MIB + 4096)}
    with path.open("wb") as file:
        file.truncate(SIZE)
        for place, content in {0: head, **pieces, SIZE - len(tail): tail}.items():
            file.seek(place)
            file.write(content)
    return Image(role, path, sha256_of(path), SIZE, "ab" * 32, SECRETS, SECRETS_SIZE)
