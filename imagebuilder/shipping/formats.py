"""A provisioned image in the form that a provider imports: the same bytes each time. Runs qemu-img, in memory only.

The image has its host's secrets in it, so that nothing of it is ever written to a disk of this machine.
"""

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import zstandard

from imagebuilder.run import run
from imagebuilder.shipping.cells import cells
from imagebuilder.shipping.provision import PIECE_BYTES, Provisioned
from imagebuilder.tools import Tools

ZSTD_LEVEL = 3
DESCRIPTOR_BYTES = 65536
"""A VMDK's text is within so many bytes of its beginning."""
# Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format": the last sector of a fixed disk
FOOTER = struct.Struct(">8sIIQI4sI4sQQIII16sB427s")
FOOTER_TIME, FOOTER_CHECKSUM, FOOTER_UUID = 4, 12, 13


class Format(StrEnum):
    """What an object in a store of images may be; the name is the end of its own."""

    RAW = "raw"
    RAW_ZST = "raw.zst"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vhd"


QEMU = {
    Format.QCOW2: ["-c", "-O", "qcow2", "-o", "compat=1.1"],
    Format.VMDK: ["-O", "vmdk", "-o", "subformat=streamOptimized"],
    # The only kind that Azure takes; others take it too.
    Format.VHD: ["-O", "vpc", "-o", "subformat=fixed,force_size=on"],
}


@dataclass(frozen=True)
class Shaped:
    """An image in its form."""

    form: Format
    size_bytes: int
    sha256: str
    """Of the whole, hexadecimal."""
    pieces: Callable[[], Iterator[bytes]]
    """Gives it from its beginning, each time it is called."""


def format_of(name: str) -> Format | None:
    """Return the form that the end of *name* stands for. Pure."""
    return next((form for form in sorted(Format, key=len, reverse=True) if name.lower().endswith(f".{form}")), None)


@contextlib.contextmanager
def shaped(provisioned: Provisioned, form: Format, tools: Tools) -> Iterator[Shaped]:
    """Yield *provisioned* as *form*; the same secrets and image give the same bytes."""
    with contextlib.ExitStack() as held:
        if form is Format.RAW:
            pieces: Callable[[], Iterator[bytes]] = lambda: (cell.content for cell in cells(provisioned))  # noqa: E731
        elif form is Format.RAW_ZST:
            pieces = lambda: _compressed(provisioned)  # noqa: E731
        else:
            made = held.enter_context(_nameless())
            with _nameless() as raw:
                os.ftruncate(raw, provisioned.size_bytes)
                for region in provisioned.regions():
                    os.pwrite(raw, region.data, region.offset)
                places = [f"/proc/self/fd/{descriptor}" for descriptor in (raw, made)]
                argv = ["qemu-img", "convert", "-f", "raw", *QEMU[form], *places]
                run(tools.argv(argv), pass_fds=[raw, made])
            _settle(made, form, provisioned.image.sha256)
            pieces = lambda: _pieces(made)  # noqa: E731
        digest, size = hashlib.sha256(), 0
        for piece in pieces():
            digest.update(piece)
            size += len(piece)
        yield Shaped(form, size, digest.hexdigest(), pieces)


def _compressed(provisioned: Provisioned) -> Iterator[bytes]:
    """Give *provisioned* as a file that zstd unpacks and checks."""
    packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compressobj(size=provisioned.size_bytes)
    for cell in cells(provisioned):
        if packed := packer.compress(cell.content):
            yield packed
    yield packer.flush()


@contextlib.contextmanager
def _nameless() -> Iterator[int]:
    """Yield a file in memory, which no directory ever lists."""
    descriptor = os.memfd_create("nameless", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _pieces(descriptor: int) -> Iterator[bytes]:
    """Give the open file from its beginning."""
    place = 0
    while piece := os.pread(descriptor, PIECE_BYTES, place):
        yield piece
        place += len(piece)


def _settle(descriptor: int, form: Format, sha256: str) -> None:
    """Put what *sha256* says in the place of what qemu-img drew by lot or read off the clock."""
    if form is Format.VMDK:
        head = os.pread(descriptor, DESCRIPTOR_BYTES, 0)
        start = head.index(b"# Disk DescriptorFile")
        text = head[start : head.index(b"\0", start)]
        os.pwrite(descriptor, settled_descriptor(text, sha256), start)
    if form is Format.VHD:
        end = os.lseek(descriptor, 0, os.SEEK_END) - FOOTER.size
        os.pwrite(descriptor, settled_footer(os.pread(descriptor, FOOTER.size, end), sha256), end)


def settled_descriptor(text: bytes, sha256: str) -> bytes:
    """Return a VMDK's *text* with a content identifier that *sha256* gives; zeros follow it, so it may grow. Pure."""
    # The two highest are reserved; qemu-img leaves out zeros in front.
    identifier = f"\nCID={int(sha256[:8], 16) & 0x7FFFFFFF:08x}\n".encode()
    settled, count = re.subn(rb"\nCID=[0-9a-f]{1,8}\n", identifier, text)
    assert count == 1, text
    return settled


def settled_footer(footer: bytes, sha256: str) -> bytes:
    """Return a VHD's *footer* with the time zero and an identifier that *sha256* gives. Pure."""
    fields = list(FOOTER.unpack(footer))
    fields[FOOTER_TIME], fields[FOOTER_CHECKSUM] = 0, 0
    fields[FOOTER_UUID] = UUID(hex=sha256[:32], version=4).bytes
    fields[FOOTER_CHECKSUM] = ~sum(FOOTER.pack(*fields)) & 0xFFFFFFFF
    return FOOTER.pack(*fields)
