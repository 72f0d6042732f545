"""The disks of machines: layers over images that nothing is ever written to. Runs qemu-img and qemu-io."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.run import run
from imagebuilder.shipping.provision import nameless, secrets_filesystem
from imagebuilder.tools import Tools

DISK_GIB = 12
"""Size of each machine's disk, as the reference VPS has about that."""
TOOL_S = 60.0
"""Seconds that these programs may take."""
BLOCK_BYTES = 65536
"""What is looked at at once when a file is moved."""


def raw(path: Path) -> dict[str, object]:
    """Return an image as QEMU is told of it. Pure."""
    return {"driver": "raw", "file": {"driver": "file", "filename": str(path)}}


def qcow2(path: Path, base: Path) -> dict[str, object]:
    """Return a disk over the image *base*, wherever that was when it was made. Pure."""
    return {"driver": "qcow2", "file": {"driver": "file", "filename": str(path)}, "backing": raw(base)}


def overlay(tools: Tools, base: Mapping[str, object], path: Path) -> None:
    """Make *path* a disk that shows *base* and keeps what is written to it."""
    path.unlink(missing_ok=True)
    # -u: the base is not opened, as what lies below it may not be in sight here
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", f"json:{json.dumps(base)}"]
    argv += ["-F", str(base["driver"]), str(path), f"{DISK_GIB}G"]
    run(tools.argv(argv, write=[path.parent]), timeout_s=TOOL_S)


def move_sparsely(source: Path, target: Path) -> None:
    """Move the file *source* to *target*, on whatever file system; blocks of zeros become holes."""
    zeros = bytes(BLOCK_BYTES)
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        size, position = source.stat().st_size, 0
        new.truncate(size)
        while position < size:
            try:
                position = os.lseek(old.fileno(), position, os.SEEK_DATA) // BLOCK_BYTES * BLOCK_BYTES
            except OSError:  # nothing but a hole to the end
                break
            block = os.pread(old.fileno(), BLOCK_BYTES, position)
            if block != zeros[: len(block)]:
                os.pwrite(new.fileno(), block, position)
            position += len(block)
    source.unlink()


def provision(tools: Tools, image: Image, files: Mapping[str, bytes], disk: Path) -> None:
    """Write the credentials *files* into the secrets partition of *disk*, an overlay over *image*."""
    filesystem = secrets_filesystem(tools, files, limit_bytes=image.secrets_size)

    def write(path: str, descriptor: int) -> None:
        Path(path).write_bytes(filesystem)
        order = f"write -q -s {path} {image.secrets_offset} {len(filesystem)}"
        argv = ["qemu-io", "-f", "qcow2", "-c", order, str(disk)]
        run(tools.argv(argv, read=[image.path], write=[disk.parent]), pass_fds=[descriptor], timeout_s=TOOL_S)

    nameless(write)
