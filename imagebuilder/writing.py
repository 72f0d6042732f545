"""Files that are there whole or not at all, whatever happens meanwhile. Writes files."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes, *, mode: int | None = None, by: Path | None = None) -> None:
    """Put *content* in place of what *path* has, by a temporary name, fsync and rename.

    *mode* is the file's from its first moment, never wider; None is what the umask leaves of 0666. *by* is the
    temporary name, in the same file system; left out: one beside *path*, which is removed when writing fails.
    """
    target = path.resolve()
    temporary = by or target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666 if mode is None else mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in *folder* to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
