"""An image as one host gets it, with that host's secrets: read in pieces, never written down. Reads the image."""

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from imagebuilder.build.disk import SHIPPED_PARTITIONS
from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.gpt import HEAD_BYTES, TABLE_BYTES, fitted
from imagebuilder.plan import PARTITIONS
from imagebuilder.resources import PROFILES
from imagebuilder.run import run
from imagebuilder.tools import Tools

PIECE_BYTES = 4 * 2**20
"""The largest piece that is read at once."""
BLOCK_BYTES = 4096
"""Pieces begin at multiples of it, whatever the file system of the store calls a hole."""
MARGIN_BYTES = 2**20
"""At both ends of a disk, where partition tables, RAID, LVM and ZFS keep their marks, nothing old is left."""


@dataclass(frozen=True)
class Region:
    """A piece of a disk that has to be written; what lies between regions is zeros."""

    offset: int
    """Of its first byte, a multiple of BLOCK_BYTES."""
    data: bytes = field(repr=False)
    """At most PIECE_BYTES."""

    @property
    def end(self) -> int:
        """Of the first byte after it."""
        return self.offset + len(self.data)


def secrets_filesystem(tools: Tools, credentials: Mapping[str, bytes], *, limit_bytes: int) -> bytes:
    """Return *credentials* (name to content) as an erofs file system, which only root can read once it is mounted.

    They touch no disk: a pipe carries them in, and a nameless file in memory back. The same credentials give the
    same bytes, so that a host's disk can be checked. Raises ImagebuilderError beyond *limit_bytes*.
    """
    command = ["mkfs.erofs", "--quiet", "--tar=f", "--all-root", "-T0", "-Uclear"]

    def make(path: str, descriptor: int) -> None:
        run(tools.argv([*command, path]), stdin=_archive(credentials), pass_fds=[descriptor])

    filesystem = nameless(make)
    if len(filesystem) > limit_bytes:
        raise ImagebuilderError(f"the secrets take {len(filesystem):,} bytes, there is room for {limit_bytes:,}")
    return filesystem


@dataclass(frozen=True)
class Provisioned:
    """*image* with the secrets of one host in it, on a disk of a given size or as large as the image is."""

    image: Image
    filesystem: bytes = field(repr=False)
    """What `secrets_filesystem` made."""
    disk_bytes: int | None = None
    """Size of the disk that it is for: the second copy of the partition table belongs to its end. None: the image's."""

    @property
    def size_bytes(self) -> int:
        """How large the whole is."""
        return self.disk_bytes or self.image.size_bytes

    def regions(self) -> Iterator[Region]:
        """Give all regions, by ascending offset; they never overlap."""
        with self.image.path.open("rb", buffering=0) as file:
            patches = self._patches(file)
            extents = [*_data(file), *((patch.offset, patch.end) for patch in patches)]
            for start, end in _merged(extents, self.size_bytes):
                for offset in range(start, end, PIECE_BYTES):
                    yield Region(offset, self._piece(file, patches, offset, min(offset + PIECE_BYTES, end)))

    def data_bytes(self) -> int:
        """Return how many bytes all regions have."""
        with self.image.path.open("rb", buffering=0) as file:
            extents = [*_data(file), *((patch.offset, patch.end) for patch in self._patches(file))]
        return sum(end - start for start, end in _merged(extents, self.size_bytes))

    def _patches(self, file: io.FileIO) -> tuple[Region, ...]:
        """Return what differs from the image: the secrets, and both copies of the partition table."""
        secrets = self.filesystem.ljust(self.image.secrets_size, b"\0")  # nothing of an older host stays behind them
        patches = [Region(self.image.secrets_offset, secrets)]
        head = _read(file, 0, MARGIN_BYTES)
        if self.disk_bytes is None or self.disk_bytes == self.image.size_bytes:
            return Region(0, head), *patches
        first, last = fitted(head[:HEAD_BYTES], self.disk_bytes)
        # The image's own second copy would be in the way of partitions.
        patches.append(Region(self.image.size_bytes - TABLE_BYTES, bytes(TABLE_BYTES)))
        margin = min(MARGIN_BYTES, self.disk_bytes - self.image.size_bytes)
        patches.append(Region(self.disk_bytes - margin, last.rjust(margin, b"\0")))
        return Region(0, first + head[HEAD_BYTES:]), *patches

    def _piece(self, file: io.FileIO, patches: tuple[Region, ...], start: int, end: int) -> bytes:
        """Return the bytes from *start* to *end* of the whole."""
        piece = bytearray(_read(file, start, end - start))
        for patch in patches:
            first, last = max(start, patch.offset), min(end, patch.end)
            if first < last:
                piece[first - start : last - start] = patch.data[first - patch.offset : last - patch.offset]
        return bytes(piece)


def needed_bytes(image: Image) -> int:
    """Return the size of the smallest disk for *image*: it has room for what the first boot adds."""
    added = 0
    for profile in ("base", image.role):
        for definition in sorted((PROFILES / profile / PARTITIONS).glob("*.conf")):
            if definition.stem not in SHIPPED_PARTITIONS:
                size = re.search(r"^SizeMinBytes=(\d+)([MG])$", definition.read_text(), re.MULTILINE)
                assert size, definition
                added += int(size[1]) * {"M": 2**20, "G": 2**30}[size[2]]
    return image.size_bytes + added + MARGIN_BYTES


def nameless(make: Callable[[str, int], None]) -> bytes:
    """Return what *make* leaves in a file in memory, which no directory ever lists.

    *make* is given its path, for itself and for processes that it passes the file to, and its number.
    """
    descriptor = os.memfd_create("nameless", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        make(f"/proc/self/fd/{descriptor}", descriptor)
        return file.read()


def _archive(credentials: Mapping[str, bytes]) -> bytes:
    """Return *credentials* as a tar archive whose folder and files only their owner can read. Pure."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("./")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
        for name in sorted(credentials):
            file = tarfile.TarInfo(f"./{name}")
            file.mode, file.size = 0o400, len(credentials[name])
            archive.addfile(file, io.BytesIO(credentials[name]))
    return buffer.getvalue()


def _read(file: io.FileIO, offset: int, length: int) -> bytes:
    """Return *length* bytes of *file* from *offset*; past its end they are zeros."""
    pieces, place = [], offset
    while place < offset + length and (piece := os.pread(file.fileno(), offset + length - place, place)):
        pieces.append(piece)
        place += len(piece)
    return b"".join(pieces).ljust(length, b"\0")


def _data(file: io.FileIO) -> Iterator[tuple[int, int]]:
    """Give beginning and end of each extent of *file* that is no hole."""
    size, end = os.fstat(file.fileno()).st_size, 0
    while end < size:
        try:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
        except OSError:  # nothing but a hole to the end
            return
        end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        yield start, end


def _merged(extents: list[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Return *extents* widened to whole blocks, sorted, those that touch made one, none beyond *limit*. Pure."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(extents):
        start = first // BLOCK_BYTES * BLOCK_BYTES
        end = min(-(-last // BLOCK_BYTES) * BLOCK_BYTES, limit)
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
