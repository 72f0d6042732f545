"""Comparing two disk images: which partition differs, which files in it, and the likely cause."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pefile import PEFormatError  # type: ignore[import-untyped]
from zstandard import ZstdError

from imagebuilder.comparison import readers
from imagebuilder.comparison.causes import CONSEQUENCE, ORDER, UNKNOWN, cause, excerpt
from imagebuilder.comparison.diffoscope import explained
from imagebuilder.comparison.entries import Entries, Entry, Kind
from imagebuilder.gpt import HEAD_BYTES, Span, lines, spans
from imagebuilder.run import ProcessError
from imagebuilder.store.hashing import sha256_of
from imagebuilder.tools import Tools

VERITY = b"verity\0\0"
"""How a dm-verity hash device begins (cryptsetup, lib/verity/verity.c)."""


@dataclass(frozen=True)
class Digested:
    """A partition with the digest of its bytes."""

    span: Span
    sha256: str


@dataclass(frozen=True)
class Difference:
    """One thing in which two images differ."""

    place: tuple[str, ...]
    """From outside in: partition, file, section of a program, file in its archive …"""
    first: str
    """What the first image has there; "absent" when nothing."""
    second: str
    cause: str
    """The likely one, a guess."""
    lines: tuple[str, str] = ("", "")
    """Of a text: the first line that differs, in both."""
    details: str = ""
    """What diffoscope says, where it is installed."""

    def __str__(self) -> str:
        shown = "".join(f"\n    {mark} {line}" for mark, line in zip("-+", self.lines, strict=True) if any(self.lines))
        details = "".join(f"\n    {line}" for line in self.details.splitlines())
        return f"{' > '.join(self.place)}: {self.first} / {self.second}; likely cause: {self.cause}{shown}{details}"


def partitions(image: Path) -> tuple[Digested, ...]:
    """Return the partitions of *image* with their digests; holes are not read."""
    return tuple(Digested(p, sha256_of(image, p.offset, p.length)) for p in spans(_head(image)))


def differences(a: Path, b: Path, tools: Tools, work: Path | None = None) -> tuple[Difference, ...]:
    """Return all in which the disk images *a* and *b* differ, nothing when they have the same bytes.

    *work* is a folder with room for what both hold (default: the system's for temporary files).
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="compare-") as folder:
        return _Comparison(a, b, tools, Path(folder)).differences()


@dataclass(frozen=True)
class _Comparison:
    """Two images side by side."""

    a: Path
    b: Path
    tools: Tools
    work: Path

    def differences(self) -> tuple[Difference, ...]:
        """Return what differs, partition by partition; then what is in none."""
        first = {side.span.label: side for side in partitions(self.a)}
        second = {side.span.label: side for side in partitions(self.b)}
        found: list[Difference] = []
        for label in {**first, **second}:
            one, other = first.get(label), second.get(label)
            if one is None or other is None:
                found.append(Difference((label,), _shown(one), _shown(other), "another layout of the disk"))
            elif one.sha256 != other.sha256:
                found += self._inside(one, other)
        return (*found, *self._outside(bool(found)))

    def _inside(self, one: Digested, other: Digested) -> Iterator[Difference]:
        label = one.span.label
        try:
            entries = [self._entries(side, image) for side, image in self._sides(one, other)]
        except ProcessError as error:
            yield Difference((label,), _shown(one), _shown(other), f"damage, as {error}")
            return
        inside = [
            difference
            for path, first, second in _unequal(*entries)
            for difference in self._of((label, path), first, second)
        ]
        yield from inside
        if not inside:
            is_verity = all(self._head(side, image).startswith(VERITY) for side, image in self._sides(one, other))
            files = "the same files, in another layout; " if self._reader(one, self.a) else ""
            yield Difference(
                (label,), f"{files}{_shown(one)}", _shown(other),
                CONSEQUENCE if is_verity else ORDER if files else UNKNOWN,
            )  # fmt: skip

    def _sides(self, one: Digested, other: Digested) -> tuple[tuple[Digested, Path], ...]:
        return (one, self.a), (other, self.b)

    def _head(self, side: Digested, image: Path) -> bytes:
        with image.open("rb") as disk:
            disk.seek(side.span.offset)
            return disk.read(4096)

    def _reader(self, side: Digested, image: Path) -> str:
        head = self._head(side, image)
        if head[readers.EROFS_SUPERBLOCK :].startswith(readers.EROFS_MAGIC):
            return "erofs"
        return "fat" if head[3:].startswith(readers.FAT_OEM) else ""

    def _entries(self, side: Digested, image: Path) -> Entries:
        reader = self._reader(side, image)
        if not reader:
            return {}
        folder = self.work / f"{side.span.label}-{'a' if image is self.a else 'b'}"
        folder.mkdir()
        read = readers.read_erofs if reader == "erofs" else readers.read_fat
        return read(image, side.span.offset, self.tools, folder)

    def _of(self, place: tuple[str, ...], first: Entry | None, second: Entry | None) -> Iterator[Difference]:
        """Yield the differences of two entries, of their parts when they have some."""
        parts: list[Difference] = []
        if first and second and first.digest != second.digest and first.kind in (Kind.FILE, Kind.SECTION):
            inside = [self._parts(entry.read()) for entry in (first, second)]
            # Of something damaged there is nothing to compare but its bytes.
            for path, one, other in _unequal(*inside) if all(inside) else ():
                parts += self._of((*place, path), one, other)
        yield from parts
        if not parts:
            shown = [str(entry) if entry else "absent" for entry in (first, second)]
            if shown[0] == shown[1] and first and second:
                shown = [_hidden_facts(entry) for entry in (first, second)]
            details = explained(first, second, place[-1], self.work)
            yield Difference(place, shown[0], shown[1], cause(first, second), excerpt(first, second), details)

    def _parts(self, content: bytes) -> Entries:
        try:
            if content.startswith(readers.ZSTD_MAGIC):
                content = readers.unpack_zstd(content)
            if content.startswith(readers.CPIO_MAGIC):
                return readers.read_cpio(content)
            return readers.read_pe(content) if content.startswith(readers.PE_MAGIC) else {}
        except (PEFormatError, ZstdError, ValueError):  # damaged
            return {}

    def _outside(self, explained: bool) -> Iterator[Difference]:
        """Yield the difference of what is in no partition: boot sector and partition table."""
        table = [lines(_head(image)) for image in (self.a, self.b)]
        if table[0] != table[1]:
            differing = next((pair for pair in zip(*table, strict=False) if pair[0] != pair[1]), ("", ""))
            yield Difference(
                ("partition table",), f"{len(table[0])} partitions", f"{len(table[1])} partitions",
                CONSEQUENCE if explained else UNKNOWN, differing,
            )  # fmt: skip
        elif not explained and (digests := [sha256_of(image) for image in (self.a, self.b)])[0] != digests[1]:
            yield Difference(
                ("outside of the partitions",), f"sha256 {digests[0][:16]}", f"sha256 {digests[1][:16]}", UNKNOWN
            )


def _head(image: Path) -> bytes:
    with image.open("rb") as disk:
        return disk.read(HEAD_BYTES)


def _shown(side: Digested | None) -> str:
    return f"{side.span.length:,} bytes, sha256 {side.sha256[:16]}" if side else "absent"


def _hidden_facts(entry: Entry) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in entry.attributes)
    return f"{entry}, changed at {entry.mtime}, {facts}" if facts else f"{entry}, changed at {entry.mtime}"


def _unequal(first: Entries, second: Entries) -> Iterator[tuple[str, Entry | None, Entry | None]]:
    """Yield path and both entries of what is not the same in both. Pure."""
    for path in sorted({*first, *second}):
        if first.get(path) != second.get(path):
            yield path, first.get(path), second.get(path)


__all__ = ["Difference", "Digested", "differences", "partitions"]
