"""The SHA-256 of files, of which disk images are mostly holes. Reads files."""

import hashlib
import os
from pathlib import Path


def sha256_of(path: Path, offset: int = 0, length: int | None = None) -> str:
    """Return the SHA-256 (hex) of the file *path*, or of its *length* bytes from *offset* on.

    Its holes are not read, which for a disk image is most of it.
    """
    digest, zeros = hashlib.sha256(), bytes(BLOCK)
    with path.open("rb", buffering=0) as file:
        size, position = os.fstat(file.fileno()).st_size, offset
        end = size if length is None else min(size, offset + length)
        while position < end:
            try:
                data = min(end, os.lseek(file.fileno(), position, os.SEEK_DATA))
            except OSError:  # nothing but a hole to the end
                data = end
            while position < data:
                step = min(BLOCK, data - position)
                digest.update(zeros[:step])
                position += step
            hole = min(end, os.lseek(file.fileno(), position, os.SEEK_HOLE)) if position < end else end
            file.seek(position)
            while position < hole and (block := file.read(min(BLOCK, hole - position))):
                digest.update(block)
                position += len(block)
    return digest.hexdigest()


BLOCK = 2**20
"""Bytes read at once."""
