"""Puts an image where a provider imports it from, at any URL that fsspec can write to. Owns that one object.

It takes another name at first and its own after it was read back, so that there is never half of one under its own.
HTTP knows no other names: there its length is said first, and a server drops what ends before.
"""

import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import say
from imagebuilder.shipping.formats import Shaped
from imagebuilder.shipping.progress import Progress
from imagebuilder.store.substituter import failures

BLOCK_BYTES = 16 * 2**20
"""What is sent by one request, where a store wants several."""
READ_BYTES = 2**20
SILENCE_S = 300
"""Longest wait for a server to take or to give the next piece."""
HTTP = ("http", "https")


class ObjectError(ImagebuilderError):
    """The object is not where it was to be."""


class WrongUrlError(ImagebuilderError):
    """A URL was named that nothing can be written to."""

    status = ExitStatus.WRONG_INPUT


@dataclass(frozen=True)
class Stored:
    """An object that was put somewhere."""

    url: str
    """Without what logs in."""
    size_bytes: int
    sha256: str
    read_back: bool
    """Whether it was read back and compared; where reading is not allowed it is not."""


def shown(url: str) -> str:
    """Return *url* without what logs in: password, signature, token. Pure."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = parts.netloc.rpartition("@")[0].partition(":")[0]
    return urlunsplit((parts.scheme, f"{user}@{host}" if user else host, parts.path, "", ""))


def put(shaped: Shaped, url: str) -> Stored:
    """Write *shaped* to *url*, read it back, and return what was done; raise ObjectError when it is not there whole."""
    system, path, is_http = _opened(url)
    with _failures_explained(url), _private():
        if is_http:
            _send(shaped, system, path, url)
            read_back = _same(shaped, system, path, url, may_be_shut=True)
        else:
            passing = f"{path}.{secrets.token_hex(4)}.part"
            try:
                _write(shaped, system, passing, url)
                read_back = _same(shaped, system, passing, url)
                system.mv(passing, path)
            except BaseException:
                with contextlib.suppress(*failures()):
                    system.rm(passing)
                raise
            if (size := system.size(path)) != shaped.size_bytes:
                raise ObjectError(f"{shown(url)} has {size:,} bytes, not {shaped.size_bytes:,}")
    return Stored(shown(url), shaped.size_bytes, shaped.sha256, read_back)


def _opened(url: str) -> tuple[Any, str, bool]:
    """Return the file system of *url*, the path in it, and whether it speaks HTTP."""
    import aiohttp  # only here, as is fsspec: their import costs more than most commands
    import fsspec  # type: ignore[import-untyped]

    is_http = urlsplit(url).scheme in HTTP
    # Proxies are this machine's; a large object may take its time, a silent server may not.
    waits = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_S)
    options = {"client_kwargs": {"trust_env": True, "timeout": waits}} if is_http else {}
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
    except failures() as error:
        said = str(error).strip().splitlines()
        raise WrongUrlError(
            f"{shown(url)}: {said[0] if said else type(error).__name__}",
            hint="other kinds than file, ftp, http and https need a Python package: s3fs, gcsfs, adlfs, paramiko …",
        ) from None
    return system, str(path), is_http


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """Let what is made here be read by nobody else."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _failures_explained(url: str) -> Iterator[None]:
    try:
        yield
    except failures() as error:
        said = str(error).replace(url, shown(url)).strip().splitlines()
        raise ObjectError(
            f"{shown(url)} was not written: {said[0] if said else type(error).__name__}",
            hint="nothing is there under that name but what was there before; try again",
        ) from None


def _write(shaped: Shaped, system: Any, path: str, url: str) -> None:  # noqa: ANN401 (any file system of fsspec)
    progress, done = Progress(f"sending to {shown(url)}", shaped.size_bytes), 0
    with system.open(path, "wb", block_size=BLOCK_BYTES) as file:
        for piece in shaped.pieces():
            file.write(piece)
            done += len(piece)
            progress.reached(done)
    progress.end()


def _send(shaped: Shaped, system: Any, path: str, url: str) -> None:  # noqa: ANN401
    progress = Progress(f"sending to {shown(url)}", shaped.size_bytes)
    headers = {"Content-Length": str(shaped.size_bytes), "Content-Type": "application/octet-stream"}
    system.put_file(_Stream(shaped.pieces(), progress), path, method="put", headers=headers)
    progress.end()


def _same(shaped: Shaped, system: Any, path: str, url: str, *, may_be_shut: bool = False) -> bool:  # noqa: ANN401
    """Say whether what is at *path* could be read and compared; raise ObjectError when it is something else."""
    progress, digest, done = Progress(f"reading {shown(url)} back", shaped.size_bytes), hashlib.sha256(), 0
    options = {"block_size": 0} if may_be_shut else {}  # in one stream, as many servers know no ranges
    try:
        with system.open(path, "rb", **options) as file:
            while piece := file.read(READ_BYTES):
                digest.update(piece)
                done += len(piece)
                progress.reached(done)
    except failures() as error:
        if not may_be_shut or getattr(error, "status", 404) not in (401, 403, 404, 405):
            raise
        say(f"warning: {shown(url)} took all {shaped.size_bytes:,} bytes, but gives nobody to read: not compared")
        return False
    progress.end()
    if digest.hexdigest() != shaped.sha256:
        raise ObjectError(
            f"{shown(url)} gives back other bytes than were written to it", hint="remove it, and try again"
        )
    return True


class _Stream(io.RawIOBase):
    """Pieces as a file that is read once."""

    def __init__(self, pieces: Iterator[bytes], progress: Progress) -> None:
        self._pieces = pieces
        self._progress = progress
        self._rest = b""
        self._done = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most *size* bytes, nothing at the end."""
        while not self._rest and (piece := next(self._pieces, None)) is not None:
            self._rest = piece
        given, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        self._done += len(given)
        self._progress.reached(self._done)
        return given
