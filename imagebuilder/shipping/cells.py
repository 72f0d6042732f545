"""A provisioned image cut into cells of a fixed grid, each written, hashed and sent by itself. Reads the image."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from imagebuilder.shipping.provision import MARGIN_BYTES, Provisioned, Region

CELL_BYTES = 16 * 2**20
"""Where the grid has its lines. A cell is sent whole, and lost whole when the connection is cut; each costs the other
machine a few processes."""
TRANSFER_BYTES = 2**20
"""The most that is written or read by one call of the system over there."""


@dataclass(frozen=True)
class Place:
    """Where a cell is, and how its content is known again."""

    offset: int
    length: int
    empty: bool
    """Whether the image has no data there, and it is zeros."""
    sha256: str
    """Of its content, hexadecimal."""

    @property
    def blocks(self) -> str:
        """Size of a block, its first block and their number, as dd counts: the block divides offset and length."""
        size = math.gcd(self.offset, self.length, TRANSFER_BYTES)
        return f"{size} {self.offset // size} {self.length // size}"


@dataclass(frozen=True)
class Cell:
    """A piece of a disk."""

    offset: int
    length: int
    data: bytes | None = field(repr=False)
    """None: zeros."""

    @property
    def content(self) -> bytes:
        """Its bytes."""
        return bytes(self.length) if self.data is None else self.data

    @property
    def place(self) -> Place:
        """What is known of it without its content."""
        digest = zeros_sha256(self.length) if self.data is None else hashlib.sha256(self.data).hexdigest()
        return Place(self.offset, self.length, self.data is None, digest)


@cache
def zeros_sha256(length: int) -> str:
    """Return the hash of so many zeros."""
    return hashlib.sha256(bytes(length)).hexdigest()


def cells(provisioned: Provisioned) -> Iterator[Cell]:
    """Give all of the disk that *provisioned* fills or leaves empty, by ascending offset; they never overlap.

    The first, of MARGIN_BYTES, holds the partition table. What lies between the image and the end of a larger disk is
    no part of any, but for the last MARGIN_BYTES.
    """
    image_end, place = provisioned.image.size_bytes, 0
    pieces: list[Region] = []
    for region in provisioned.regions():
        offset, data = region.offset, region.data
        while data:
            end = _end_of_cell(place, image_end)
            while offset >= end and place < image_end:
                yield _cell(place, end, pieces)
                place, pieces = end, []
                end = _end_of_cell(place, image_end)
            if place >= image_end:
                # The last piece of the disk, with the second copy of the table.
                yield Cell(offset, len(data), data)
                break
            pieces.append(Region(offset, data[: end - offset]))
            offset, data = min(region.end, end), data[end - offset :]
    while place < image_end:
        end = _end_of_cell(place, image_end)
        yield _cell(place, end, pieces)
        place, pieces = end, []


def _end_of_cell(place: int, image_end: int) -> int:
    """Return where the cell that begins at *place* ends."""
    return MARGIN_BYTES if place < MARGIN_BYTES else min((place // CELL_BYTES + 1) * CELL_BYTES, image_end)


def _cell(start: int, end: int, pieces: list[Region]) -> Cell:
    """Return the cell from *start* to *end*, in which there are *pieces* of data."""
    if not pieces:
        return Cell(start, end - start, None)
    content = bytearray(end - start)
    for piece in pieces:
        content[piece.offset - start : piece.end - start] = piece.data
    return Cell(start, end - start, bytes(content))
