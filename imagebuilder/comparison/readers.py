"""Looking into what images are made of: erofs, FAT, programs in PE format, zstd, cpio. Runs programs of the tools."""

import hashlib
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pefile  # type: ignore[import-untyped]
import zstandard

from imagebuilder.comparison.entries import Entries, Entry, Kind, kind_of
from imagebuilder.run import run
from imagebuilder.tools import Tools

EROFS_SUPERBLOCK = 1024
EROFS_MAGIC = bytes.fromhex("e2e1f5e0")
ZSTD_MAGIC = bytes.fromhex("28b52ffd")
CPIO_MAGIC = b"070701"
PE_MAGIC = b"MZ"
FAT_OEM = b"mkfs.fat"

EXTRACT = """set -eu
mkdir "$3/tree"
fsck.erofs -d1 --extract="$3/tree" --preserve --xattrs --overwrite --offset="$2" "$1" >&2
tar --create --file="$3/tree.tar" --directory="$3/tree" --format=posix --numeric-owner --xattrs --xattrs-include='*' .
rm -rf "$3/tree"
"""
"""The archive carries owners and modes to a reader who may neither have nor read such files."""


def read_erofs(image: Path, offset: int, tools: Tools, work: Path) -> Entries:
    """Return what the erofs file system at *offset* of *image* holds; *work* is an empty folder that must stay."""
    inside = ["sh", "-c", EXTRACT, "sh", str(image), str(offset), str(work)]
    argv = tools.argv(inside, read=[image], write=[work])
    run(argv if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--map-auto", *argv])
    return read_tar(work / "tree.tar")


def read_tar(path: Path) -> Entries:
    """Return the entries of the tar archive *path*, which must stay."""
    entries = {}
    with tarfile.open(path) as tar:
        for member in tar:
            kind, content, digest = Kind.OTHER, b"", ""
            read: Callable[[], bytes] = bytes
            if member.isdir():
                kind = Kind.FOLDER
            elif member.issym():
                kind, content = Kind.LINK, member.linkname.encode()
                read = partial(bytes, content)
            elif member.isfile() or member.islnk():
                kind, read = Kind.FILE, partial(_member, path, member.name)
                file = tar.extractfile(member)
                digest = hashlib.sha256(file.read() if file else b"").hexdigest()
            device = [("device", f"{member.devmajor}:{member.devminor}")] if member.isdev() else []
            xattrs = [(name, value) for name, value in member.pax_headers.items() if name.startswith("SCHILY.xattr.")]
            entries[member.name.removeprefix("./")] = Entry(
                kind,
                tar.getmember(member.linkname).size if member.islnk() else member.size or len(content),
                digest or hashlib.sha256(content).hexdigest(),
                member.mode & 0o7777,
                (member.uid, member.gid),
                int(member.mtime),
                tuple(sorted([*device, *xattrs])),
                read,
            )
    return entries


def _member(path: Path, name: str) -> bytes:
    with tarfile.open(path) as tar:
        file = tar.extractfile(name)
        return file.read() if file else b""


def read_fat(image: Path, offset: int, tools: Tools, work: Path) -> Entries:
    """Return what the FAT file system at *offset* of *image* holds; *work* is an empty folder that must stay."""
    command = ["mcopy", "-s", "-n", "-m", "-i", f"{image}@@{offset}", "::/", str(work)]
    run(tools.argv(command, read=[image], write=[work]))
    entries = {}
    for path in sorted(work.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        digest = hashlib.sha256(content).hexdigest()
        kind, mtime = kind_of(path.stat().st_mode), int(path.stat().st_mtime)
        # A folder's own date is not copied.
        entries[path.relative_to(work).as_posix()] = Entry(
            kind, len(content), digest, mtime=mtime if kind is Kind.FILE else None, read=path.read_bytes
        )
    return entries


def read_pe(content: bytes) -> Entries:
    """Return the sections of a program in PE format, such as a unified kernel image, and its header."""
    program = pefile.PE(data=content, fast_load=True)
    header = program.OPTIONAL_HEADER.SizeOfHeaders
    parts = {"header": content[:header]}
    for section in program.sections:
        parts[section.Name.rstrip(b"\0").decode(errors="replace")] = section.get_data()[: section.Misc_VirtualSize]
    stamp = (("time stamp", str(program.FILE_HEADER.TimeDateStamp)),)
    return {
        name: Entry(
            Kind.SECTION,
            len(data),
            hashlib.sha256(data).hexdigest(),
            attributes=stamp if name == "header" else (),
            read=partial(bytes, data),
        )
        for name, data in parts.items()
    }


def unpack_zstd(content: bytes) -> bytes:
    """Return what *content* was before it was compressed by zstd; raise ZstdError when it is damaged."""
    return zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()


def read_cpio(content: bytes) -> Entries:
    """Return the entries of the cpio archives in *content*, one behind the other as the kernel takes them. Pure.

    The format is the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    entries, position = {}, 0
    while position + 110 <= len(content):
        if not content.startswith(CPIO_MAGIC, position):
            position += 4  # padding between two archives
            continue
        numbers = [int(content[start : start + 8], 16) for start in range(position + 6, position + 110, 8)]
        inode, mode, uid, gid, links, mtime, size, _, _, major, minor, name_size, _ = numbers
        start = _aligned(position + 110 + name_size)
        name = content[position + 110 : position + 110 + name_size - 1].decode(errors="surrogateescape")
        data = content[start : start + size]
        position = _aligned(start + size)
        if name == "TRAILER!!!":
            continue
        entries[name] = Entry(
            kind_of(mode),
            size,
            hashlib.sha256(data).hexdigest(),
            mode & 0o7777,
            (uid, gid),
            mtime,
            (("device", f"{major}:{minor}"), ("inode", str(inode)), ("links", str(links))),
            partial(bytes, data),
        )
    return entries


def _aligned(position: int) -> int:
    return (position + 3) // 4 * 4
