"""The table of partitions of a disk: finds one partition, and fits the table of an image to a larger disk. Pure."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from imagebuilder.errors import ImagebuilderError

SECTOR_BYTES = 512
# UEFI 2.10 section 5.3.2: signature, revision, header size, its CRC, zero, its own sector, that of the other copy,
# first and last sector for partitions, identifier of the disk, sector of the entries, their number, size and CRC
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
ENTRY = struct.Struct("<16s16sQQQ72s")
SIGNATURE = b"EFI PART"
ENTRIES_BYTES = 128 * 128
TABLE_BYTES = SECTOR_BYTES + ENTRIES_BYTES
"""Size of a copy of the table: header and entries."""
HEAD_BYTES = SECTOR_BYTES + TABLE_BYTES
"""The first copy with the boot sector in front of it."""
BOOT_CODE_BYTES = 446
"""Where the boot sector's own four partitions begin; the first of them covers the disk (section 5.2.3)."""


@dataclass(frozen=True)
class Span:
    """Where a partition lies on the disk."""

    label: str
    offset: int
    """Of its first byte."""
    length: int
    """In bytes."""


def spans(head: bytes) -> tuple[Span, ...]:
    """Return the partitions of the disk that begins with *head*, as its table has them."""
    _checked(head)
    found = []
    for place in range(2 * SECTOR_BYTES, HEAD_BYTES, ENTRY.size):
        kind, _, first, last, _, label = ENTRY.unpack_from(head, place)
        if any(kind):
            name = label.decode("utf-16-le").rstrip("\0")
            found.append(Span(name, first * SECTOR_BYTES, (last - first + 1) * SECTOR_BYTES))
    return tuple(found)


def lines(head: bytes) -> tuple[str, ...]:
    """Return each partition of the disk that begins with *head* as a line with all that its table says about it."""
    found = []
    _checked(head)
    for place in range(2 * SECTOR_BYTES, HEAD_BYTES, ENTRY.size):
        kind, uuid, first, last, attributes, label = ENTRY.unpack_from(head, place)
        if any(kind):
            names = f"{label.decode('utf-16-le').rstrip(chr(0))} {UUID(bytes_le=kind)} {UUID(bytes_le=uuid)}"
            found.append(f"{names} {attributes:x} {first}-{last}")
    return tuple(found)


def fitted(head: bytes, disk_bytes: int) -> tuple[bytes, bytes]:
    """Return the beginning and the end of a disk of *disk_bytes*, from *head* of an image that may be smaller.

    The beginning is HEAD_BYTES long, the end, where the second copy of the table is, TABLE_BYTES.
    """
    fields = _checked(head)
    entries = head[2 * SECTOR_BYTES : HEAD_BYTES]
    last = disk_bytes // SECTOR_BYTES - 1
    usable = last - TABLE_BYTES // SECTOR_BYTES
    first = _header(fields, own=1, other=last, usable=usable, entries=2)
    second = _header(fields, own=last, other=1, usable=usable, entries=usable + 1)
    protective = bytearray(head[:SECTOR_BYTES])
    struct.pack_into("<I", protective, BOOT_CODE_BYTES + 12, min(last, 0xFFFFFFFF))
    return bytes(protective) + first + entries, entries + second


def identified(head: bytes, others: Mapping[UUID, UUID]) -> bytes:
    """Return *head* with other identifiers of the partitions: new by old. It is as long as HEAD_BYTES."""
    fields, changed = _checked(head), bytearray(head[:HEAD_BYTES])
    for place in range(2 * SECTOR_BYTES + 16, HEAD_BYTES, ENTRY.size):
        old = UUID(bytes_le=bytes(changed[place : place + 16]))
        changed[place : place + 16] = others.get(old, old).bytes_le
    entries = zlib.crc32(changed[2 * SECTOR_BYTES :])
    header = HEADER.pack(*fields[:3], 0, *fields[4:13], entries)
    header = HEADER.pack(*fields[:3], zlib.crc32(header), *fields[4:13], entries)
    changed[SECTOR_BYTES : SECTOR_BYTES + HEADER.size] = header
    return bytes(changed)


def _checked(head: bytes) -> tuple[Any, ...]:
    """Return the fields of the header in *head*; raise ImagebuilderError when it is none that is whole."""
    if len(head) >= HEAD_BYTES:
        fields = HEADER.unpack_from(head, SECTOR_BYTES)
        blank = HEADER.pack(*fields[:3], 0, *fields[4:])
        entries = head[2 * SECTOR_BYTES : HEAD_BYTES]
        known = fields[0] == SIGNATURE and fields[2] == HEADER.size and fields[10:13] == (2, 128, ENTRY.size)
        if known and (zlib.crc32(blank), zlib.crc32(entries)) == (fields[3], fields[13]):
            return fields
    raise ImagebuilderError("there is no table of partitions, or it is damaged")


def _header(fields: tuple[Any, ...], *, own: int, other: int, usable: int, entries: int) -> bytes:
    """Return the sector of a header like *fields*, at the sector *own*."""
    signature, revision, size, _, zero, _, _, first, _, disk, _, number, entry_size, crc = fields
    place = (own, other, first, usable, disk, entries, number, entry_size, crc)
    check = zlib.crc32(HEADER.pack(signature, revision, size, 0, zero, *place))
    return HEADER.pack(signature, revision, size, check, zero, *place).ljust(SECTOR_BYTES, b"\0")
