"""Writes a provisioned image to a disk and reads it back. Owns that disk from the first byte to the last."""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.shipping.progress import Progress
from imagebuilder.shipping.provision import MARGIN_BYTES, PIECE_BYTES, Provisioned, Region

# linux/fs.h
BLKDISCARD = 0x1277
BLKFLSBUF = 0x1261
BLKGETSIZE64 = 0x80081272
BLKRRPART = 0x125F
GONE = (errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM, errno.ESHUTDOWN)
"""What the system says of a disk that is not there any more."""


class DiskError(ImagebuilderError):
    """The disk failed, or is not what it was taken for."""


@dataclass(frozen=True)
class Flashed:
    """What was done to a disk."""

    written_bytes: int
    cleared_bytes: int
    """Old data that lay where the image has none, and were overwritten by zeros."""
    write_s: float
    """Seconds until all was on the disk."""
    read_s: float
    """Seconds that reading it back took."""


def flash(provisioned: Provisioned, path: Path) -> Flashed:
    """Write *provisioned* to the disk at *path*, read it all back past every cache, and return what was done.

    The partition table comes last: until everything else has been read back, no firmware starts from the disk.
    Raises DiskError when the disk fails, is pulled out, or gives back other bytes than it was given.
    """
    with _opened(path, provisioned.size_bytes) as disk:
        disk.discard()
        disk.write(Region(0, bytes(MARGIN_BYTES)))
        head, written = b"", 0
        progress = Progress(f"writing {path}", provisioned.data_bytes())
        for region in provisioned.regions():
            data, offset = region.data, region.offset
            if offset < MARGIN_BYTES:
                head, data, offset = data[:MARGIN_BYTES], data[MARGIN_BYTES:], MARGIN_BYTES
            disk.write(Region(offset, data))
            written += len(region.data)
            progress.reached(written)
        disk.sync()
        progress.reached(written)
        progress.end()
        cleared, read_s = _read_back(provisioned, disk)
        disk.write(Region(0, head))
        disk.sync()
        disk.compare(Region(0, head))
        disk.announce()
    return Flashed(written, cleared, progress.seconds, read_s)


def _read_back(provisioned: Provisioned, disk: "_Disk") -> tuple[int, float]:
    """Compare all of *disk* but the head; return how many bytes of holes had to be cleared, and the seconds."""
    image_end, cleared, place = provisioned.image.size_bytes, 0, MARGIN_BYTES
    progress = Progress(f"reading {disk.path} back", image_end)
    for region in provisioned.regions():
        # What is left out of the image must read as zeros: file systems rely on it, and so does whoever compares.
        cleared += disk.clear(place, min(region.offset, image_end))
        skip = max(0, MARGIN_BYTES - region.offset)
        disk.compare(Region(region.offset + skip, region.data[skip:]))
        place = max(place, region.end)
        progress.reached(min(place, image_end))
    cleared += disk.clear(place, image_end)
    progress.reached(image_end)
    progress.end()
    return cleared, progress.seconds


class _Disk:
    """An open disk; every failure names it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._buffer = mmap.mmap(-1, PIECE_BYTES)  # begins at a page, as transfers past the cache want it
        self._zeros = bytes(PIECE_BYTES)

    def discard(self) -> None:
        """Let the disk forget all it holds, if it can; nothing relies on it."""
        with contextlib.suppress(OSError):
            size = struct.unpack("Q", fcntl.ioctl(self._descriptor, BLKGETSIZE64, bytes(8)))[0]
            fcntl.ioctl(self._descriptor, BLKDISCARD, struct.pack("QQ", 0, size))

    def write(self, region: Region) -> None:
        """Write *region*; it is on the disk after `sync`."""
        self._buffer[: len(region.data)] = region.data
        with memoryview(self._buffer) as view, self._failure_at(region.offset, "write"):
            done = 0
            while done < len(region.data):
                with view[done : len(region.data)] as rest:
                    done += os.pwrite(self._descriptor, rest, region.offset + done)

    def sync(self) -> None:
        """Wait until the disk has all that was written, and drop what the system remembers of it."""
        with self._failure_at(None, "write"):
            os.fsync(self._descriptor)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._descriptor, BLKFLSBUF)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def compare(self, region: Region) -> None:
        """Raise DiskError unless the disk gives back *region*."""
        if self._read(region.offset, len(region.data)) != region.data:
            raise DiskError(
                f"{self.path} gives back other bytes than were written to it, at {region.offset:,} and after",
                hint="the disk, its cable or its adapter is broken: flash another one",
            )

    def clear(self, start: int, end: int) -> int:
        """Make the bytes from *start* to *end* zeros; return how many were written, as most are zeros already."""
        cleared = 0
        for offset in range(start, end, PIECE_BYTES):
            zeros = self._zeros[: min(PIECE_BYTES, end - offset)]
            if self._read(offset, len(zeros)) != zeros:
                self.write(Region(offset, zeros))
                self.sync()
                self.compare(Region(offset, zeros))
                cleared += len(zeros)
        return cleared

    def announce(self) -> None:
        """Let the system see the new partitions, if it can."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._descriptor, BLKRRPART)

    def _read(self, offset: int, length: int) -> bytes:
        with memoryview(self._buffer) as view, self._failure_at(offset, "read"):
            done = 0
            while done < length:
                with view[done:length] as rest:
                    got = os.preadv(self._descriptor, [rest], offset + done)
                if not got:
                    raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
                done += got
        return self._buffer[:length]

    @contextlib.contextmanager
    def _failure_at(self, offset: int | None, what: str) -> Iterator[None]:
        """Turn what the system says of a failed transfer into a sentence."""
        try:
            yield
        except OSError as error:
            if error.errno in GONE or not self.path.exists():
                said = f"{self.path} is gone in the middle of a {what}: it was pulled out, or has failed"
            else:
                place = "" if offset is None else f" at {offset:,}"
                said = f"{self.path} can't be {'written' if what == 'write' else 'read'}{place}: "
                said += str(error.strerror).lower()
            raise DiskError(said, hint="nothing starts from it now: flash again, to another disk or port") from None


@contextlib.contextmanager
def _opened(path: Path, size_bytes: int) -> Iterator[_Disk]:
    """Yield the disk at *path*, ours alone, when it has *size_bytes*."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_EXCL
    try:
        descriptor = _past_the_cache(path, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskError(f"{path} is in use by something on this machine", hint="lsblk shows by what") from None
        hint = "sudo, or a group that may write to disks" if error.errno in (errno.EACCES, errno.EPERM) else None
        raise DiskError(f"{path} can't be opened: {str(error.strerror).lower()}", hint=hint) from None
    try:
        if (found := os.lseek(descriptor, 0, os.SEEK_END)) != size_bytes:
            raise DiskError(f"{path} holds {found:,} bytes, not {size_bytes:,}: it is another disk than a moment ago")
        yield _Disk(path, descriptor)
    finally:
        # The last close can report what went wrong before it; all was synchronised and read back by then.
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _past_the_cache(path: Path, flags: int) -> int:
    """Open *path* without a cache in between; with one when it is a file whose file system always has one."""
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL or stat.S_ISBLK(path.stat().st_mode):
            raise
        return os.open(path, flags)
