"""Files in layers: copies that leave out holes, what differs between two files, and laying that over a third."""

import errno
import fcntl
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK_BYTES = 4096
"""What is found to differ, or not, at once."""
STEP_BYTES = 2**17
"""What is read at once: it stays in the processor's cache, which makes a copy three times as fast as 1 MiB does."""

CLONE_RANGE = 0x4020940D
"""FICLONERANGE of <linux/fs.h>: both files share the blocks from then on, until one is written to."""
NOT_CLONED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL)
"""A file system that can't, two of them, or blocks of another size."""

INDEX, DATA = "pieces.json", "pieces"


def copy_data(source: Path, target: int, offset: int = 0) -> None:
    """Write what *source* holds, but for its holes, to the open file *target* from *offset* on.

    Where the file system can, both files share it.
    """
    with source.open("rb", buffering=0) as file:
        for start, end in extents(file.fileno()):
            if not _cloned(file.fileno(), target, start, end - start, offset + start):
                _copy(file.fileno(), target, start, end, offset)


def extents(file: int) -> Iterator[tuple[int, int]]:
    """Give beginning and end of each extent of the open *file* that is no hole."""
    size, end = os.fstat(file).st_size, 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole to the end
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def differing(old: Path, new: Path) -> Iterator[tuple[int, bytes]]:
    """Give the offset and content of each run of blocks in *new* that is not the same in *old*."""
    run_offset, run = 0, bytearray()
    for offset, block in _differing_blocks(old, new):
        if run and run_offset + len(run) != offset:
            yield run_offset, bytes(run)
            run.clear()
        if not run:
            run_offset = offset
        run += block
    if run:
        yield run_offset, bytes(run)


def write_pieces(folder: Path, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Keep *pieces*, offset and content each, in *folder*."""
    index = []
    with (folder / DATA).open("wb") as file:
        for offset, content in pieces:
            index.append((offset, len(content)))
            file.write(content)
    (folder / INDEX).write_text(json.dumps(index) + "\n")


def lay_over(folder: Path, target: int) -> None:
    """Write the pieces kept in *folder* to where they belong in the open file *target*."""
    with (folder / DATA).open("rb") as file:
        for offset, length in json.loads((folder / INDEX).read_text()):
            _write(target, file.read(length), offset)


def _differing_blocks(old: Path, new: Path) -> Iterator[tuple[int, bytes]]:
    with old.open("rb", buffering=0) as a, new.open("rb", buffering=0) as b:
        offset = 0
        while step := b.read(STEP_BYTES):
            before = a.read(len(step))
            if step != before:
                for place in range(0, len(step), BLOCK_BYTES):
                    block = step[place : place + BLOCK_BYTES]
                    if block != before[place : place + BLOCK_BYTES]:
                        yield offset + place, block
            offset += len(step)


def _cloned(source: int, target: int, start: int, length: int, place: int) -> bool:
    try:
        fcntl.ioctl(target, CLONE_RANGE, struct.pack("qQQQ", source, start, length, place))
    except OSError as error:
        if error.errno in NOT_CLONED:
            return False
        raise
    return True


def _copy(source: int, target: int, start: int, end: int, offset: int) -> None:
    buffer = bytearray(STEP_BYTES)
    while start < end:
        with memoryview(buffer)[: min(STEP_BYTES, end - start)] as view:
            count = os.preadv(source, [view], start)
            _write(target, view[:count], offset + start)
        start += count


def _write(target: int, content: bytes | memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(target, content, offset)
        content, offset = content[written:], offset + written
