"""An output as one compressed archive whose bytes depend on its content alone. Writes and reads such archives."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import zstandard

from imagebuilder.errors import ImagebuilderError
from imagebuilder.store.manifest import Entry, Manifest

LEVEL = 3
THREADS = 2
"""Of zstd: the bytes are the same with any number of threads but none."""

MADE = 1
"""When everything in an archive was made (Unix seconds); 0 is taken for "unknown" by some programs."""

BLOCK = 2**16
ZEROS = bytes(BLOCK)

TYPES = {"d": tarfile.DIRTYPE, "f": tarfile.REGTYPE, "l": tarfile.SYMTYPE}


def pack(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write *folder*, which *manifest* describes, to the file *target*."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=THREADS, write_checksum=True)
    with (
        target.open("wb") as file,
        compressor.stream_writer(file, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in manifest.entries:
            if entry.kind == "f":
                with (folder / entry.path).open("rb") as content:
                    tar.addfile(_header(entry), content)
            else:
                tar.addfile(_header(entry))


def _header(entry: Entry) -> tarfile.TarInfo:
    header = tarfile.TarInfo(str(entry.path))
    header.type, header.mode, header.mtime, header.size = TYPES[entry.kind], entry.mode, MADE, entry.size
    if entry.kind == "l":
        header.linkname = entry.content
    return header


def unpack(source: Path, folder: Path) -> dict[str, str]:
    """Fill the empty *folder* from the archive *source*; return the SHA-256 of each file by its path.

    Nothing is written outside of *folder*, whatever the archive says: raises ImagebuilderError for what is no output.
    """
    digests: dict[str, str] = {}
    modes: dict[Path, int] = {folder: 0o755}
    try:
        with source.open("rb") as file:
            for member, content in _members(file):
                path = _place(member, folder, modes)
                if member.isdir():
                    path.mkdir(mode=0o700)
                    modes[path] = member.mode
                elif member.issym():
                    path.symlink_to(member.linkname)
                else:
                    assert content is not None
                    digests[member.name] = _write(path, content, member.size)
                    path.chmod(member.mode)
    except (tarfile.TarError, zstandard.ZstdError, EOFError, FileExistsError, ValueError) as error:
        raise ImagebuilderError(f"{source.name} is no archive of an output: {error}") from error
    for path, mode in reversed(modes.items()):
        path.chmod(mode)
    return digests


def _members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    with (
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in tar:
            yield member, tar.extractfile(member) if member.isreg() else None


def _place(member: tarfile.TarInfo, folder: Path, made: dict[Path, int]) -> Path:
    """Return where *member* goes: into a folder that this archive has made before."""
    relative = PurePosixPath(member.name)
    path = folder / relative
    known = member.isreg() or member.isdir() or member.issym()
    if not known or relative.is_absolute() or ".." in relative.parts or path == folder or path.parent not in made:
        raise tarfile.TarError(f"{member.name!r} can't be in one")
    return path


def _write(path: Path, content: IO[bytes], size: int) -> str:
    """Write *content* to *path*, zeros as holes; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        while block := content.read(BLOCK):
            digest.update(block)
            if block == ZEROS[: len(block)]:
                file.seek(len(block), 1)
            else:
                file.write(block)
        file.truncate(size)
        if file.tell() != size:
            raise tarfile.TarError("it ends early")
    return digest.hexdigest()
