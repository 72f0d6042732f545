"""Secrets for one host: a small read-only file system of credentials, for the partition that ships empty."""

from collections.abc import Mapping
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import run
from imagebuilder.tools import Tools


def secrets_filesystem(tools: Tools, credentials: Mapping[str, bytes], folder: Path, *, limit_bytes: int) -> Path:
    """Write *credentials* (name to content) as an erofs file system into *folder* and return its path.

    Only root can read what is in it, and *folder* itself must be the caller's alone. The plain files are gone
    afterwards. Raises ImagebuilderError when the file system is larger than *limit_bytes*.
    """
    source, filesystem = folder / "credentials", folder / "secrets.erofs"
    source.mkdir(mode=0o700)
    try:
        for name, content in credentials.items():
            path = source / name
            path.touch(mode=0o400)
            path.chmod(0o600)
            path.write_bytes(content)
            path.chmod(0o400)
        filesystem.touch(mode=0o600)
        # The time is fixed so that the same secrets give the same bytes, and a host's disk can be checked.
        run(tools.argv(["mkfs.erofs", "--quiet", "--all-root", "-T0", str(filesystem), str(source)], write=[folder]))
    finally:
        for path in source.iterdir():
            path.unlink()
        source.rmdir()
    if filesystem.stat().st_size > limit_bytes:
        raise ImagebuilderError(
            f"the secrets take {filesystem.stat().st_size:,} bytes, there is room for {limit_bytes:,}"
        )
    return filesystem
