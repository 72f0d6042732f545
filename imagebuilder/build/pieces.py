"""Files in layers: what lies where, without the holes, what differs between two files, and that over a third."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from imagebuilder.errors import ImagebuilderError

BLOCK_BYTES = 4096
"""What is found to differ, or not, at once."""
STEP_BYTES = 2**17
"""What is read at once: it stays in the processor's cache, which makes a copy three times as fast as 1 MiB does."""
HASHED_BYTES = 2**20
"""What is hashed at once: other threads go on meanwhile."""

NOT_BY_THE_KERNEL = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EINVAL)
"""It can't copy between these two files: for their file system, or as there are two of them."""

INDEX, DATA = "pieces.json", "pieces"


class Span(NamedTuple):
    """Bytes of one file that lie somewhere in another."""

    start: int
    """Where they begin in the other file."""
    end: int
    path: Path
    place: int
    """Where they begin in this one."""

    def part(self, start: int, end: int) -> "Span":
        """Return what of these bytes lies from *start* to *end* in the other file."""
        start, end = max(start, self.start), min(end, self.end)
        return Span(start, end, self.path, self.place + start - self.start)


def data_of(path: Path, offset: int = 0) -> tuple[Span, ...]:
    """Return what the file *path* holds, but for its holes, to lie from *offset* on."""
    with path.open("rb", buffering=0) as file:
        return tuple(Span(offset + start, offset + end, path, start) for start, end in extents(file.fileno()))


def overlaid(lower: Sequence[Span], upper: Sequence[Span]) -> tuple[Span, ...]:
    """Return what is to be seen when *upper* lies over *lower*; both are in order, and so is that. Pure."""
    found, waiting = [], list(reversed(lower))
    for span in upper:
        while waiting and waiting[-1].start < span.end:
            below = waiting.pop()
            if below.start < span.start:
                found.append(below.part(below.start, span.start))
            if below.end > span.end:
                waiting.append(below.part(span.end, below.end))
        found.append(span)
    return (*found, *reversed(waiting))


def write_spans(spans: Iterable[Span], target: int) -> None:
    """Write *spans* to where they lie in the open file *target*. Where the file system can, both share the bytes."""
    with _Opened() as opened:
        for span in spans:
            _write(opened[span.path], target, span)


def sha256_of_spans(spans: Iterable[Span], size: int) -> str:
    """Return the SHA-256 (hex) of a file of *size* bytes that is *spans*, in order, and holes."""
    digest, zeros, position, buffer = hashlib.sha256(), bytes(HASHED_BYTES), 0, bytearray(HASHED_BYTES)

    def skip(end: int) -> None:
        for start in range(position, end, HASHED_BYTES):
            digest.update(memoryview(zeros)[: end - start])

    with _Opened() as opened:
        for span in spans:
            skip(span.start)
            position = span.start
            while position < span.end:
                with memoryview(buffer)[: span.end - position] as view:
                    count = os.preadv(opened[span.path], [view], span.place + position - span.start)
                    if not count:
                        raise _damaged(span.path)
                    digest.update(view[:count])
                position += count
    skip(size)
    return digest.hexdigest()


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


def pieces_in(folder: Path) -> tuple[Span, ...]:
    """Return the pieces kept in *folder*, to lie where they belong."""
    found, place = [], 0
    for offset, length in json.loads((folder / INDEX).read_text()):
        found.append(Span(offset, offset + length, folder / DATA, place))
        place += length
    return tuple(sorted(found))


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


def _damaged(path: Path) -> ImagebuilderError:
    return ImagebuilderError(f"{path} ends early", hint="imagebuilder store verify tells all that is damaged")


class _Opened(dict[Path, int]):
    """Files that are opened when first asked for, and closed together."""

    def __missing__(self, path: Path) -> int:
        self[path] = os.open(path, os.O_RDONLY)
        return self[path]

    def __enter__(self) -> "_Opened":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.values():
            os.close(descriptor)


def _write(source: int, target: int, span: Span) -> None:
    """Write *span* of *source* to *target*, by the kernel alone if it can between these two."""
    by_the_kernel, position = True, span.start
    while position < span.end:
        place, length = span.place + position - span.start, span.end - position
        if by_the_kernel:
            try:
                count = os.copy_file_range(source, target, length, place, position)
            except OSError as error:
                if error.errno not in NOT_BY_THE_KERNEL:
                    raise
                by_the_kernel = False
                continue
        else:
            count = os.pwrite(target, os.pread(source, min(length, STEP_BYTES), place), position)
        if not count:
            raise _damaged(span.path)
        position += count
