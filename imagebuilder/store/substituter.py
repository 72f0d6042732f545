"""Folders and URLs that share what is in a store: locked files by their hash, outputs by their derivation, signed."""

import contextlib
import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagebuilder.errors import ImagebuilderError
from imagebuilder.statements.intoto import Sha256
from imagebuilder.statements.signing import Envelope, PublicKey, SigningKey, sign, verify
from imagebuilder.store.hashing import sha256_of
from imagebuilder.store.manifest import Manifest, manifest_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

PAYLOAD_TYPE = "application/vnd.imagebuilder.output+json"


def failures() -> tuple[type[Exception], ...]:
    """Return what the file systems of fsspec raise when something can't be had."""
    import ftplib

    import aiohttp  # only here: its import costs more than a build that finds nothing to do

    return (*ftplib.all_errors, ValueError, ImportError, RuntimeError, TypeError, aiohttp.ClientError)


def _unanswered(reason: BaseException | None) -> bool:
    """Say whether *reason*, which fsspec takes for a missing file, is that nobody answered."""
    import aiohttp

    if isinstance(reason, aiohttp.ClientResponseError):
        return reason.status >= 500
    return isinstance(reason, (aiohttp.ClientError, OSError, ValueError)) and not isinstance(reason, FileNotFoundError)


def _said(reason: BaseException | None) -> str:
    """Return the first line of what *reason* says, without the names of our own files."""
    if isinstance(reason, OSError) and reason.filename is not None:
        return str(reason.strerror).lower()
    lines = str(reason).strip().splitlines()
    return lines[0] if lines else type(reason).__name__


BLOCK = 2**20
PARALLEL = 8
"""Requests at the same time."""
ABANDONED_S = 86400
"""What has been on its way for longer does not arrive any more."""

URL = re.compile(
    # A scheme, or several chained as fsspec does it; then user, host and port, where a colon does not separate.
    r"(?:[a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]*://(?:[^:/@]*(?::[^/@]*)?@)?(?:\[[^\]]*\]|[^:/]*)(?::\d+(?=/|:|$))?[^:]*",
    re.IGNORECASE,
)


def locations_in(text: str) -> tuple[str, ...]:
    """Return the folders and URLs that *text* names, separated by colons. Pure."""
    found, position = [], 0
    while position < len(text):
        match = URL.match(text, position)
        part = match[0] if match else text[position:].partition(":")[0]
        if part:
            found.append(part)
        position += len(part) + 1
    return tuple(found)


class UnreachableError(ImagebuilderError):
    """A substituter could not be asked."""


class Said(BaseModel):
    """What an envelope beside an archive says of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    """Of this format."""
    derivation: str
    """``KEY-NAME``."""
    content: Sha256
    """Digest of the output's manifest."""
    archive: Sha256
    archive_bytes: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Substituter:
    """One folder or URL."""

    location: str
    """As the operator wrote it."""

    def __str__(self) -> str:
        return self.location

    @cached_property
    def folder(self) -> Path | None:
        """The folder that it is, unless it is elsewhere."""
        if self.location.startswith("file://"):
            return Path(self.location.removeprefix("file://"))
        return None if "://" in self.location else Path(self.location).absolute()

    @property
    def _is_http(self) -> bool:
        return re.match(r"https?://", self.location) is not None

    @cached_property
    def _remote(self) -> tuple["AbstractFileSystem", str]:
        """File system, and path in it."""
        import fsspec  # only here, as is aiohttp

        # Proxies are this machine's, as for every other program.
        options = {"client_kwargs": {"trust_env": True}} if self._is_http else {}
        with self._failures_explained():
            system, path = fsspec.core.url_to_fs(str(self.folder or self.location), **options)
        return system, str(path).rstrip("/")

    @contextlib.contextmanager
    def _failures_explained(self, what: str = "reached") -> Iterator[None]:
        try:
            yield
        except failures() as error:
            reason = error.__cause__ if isinstance(error, FileNotFoundError) else error
            if isinstance(error, FileNotFoundError) and not _unanswered(reason):
                raise
            raise UnreachableError(
                f"the substituter {self} can't be {what}: {_said(reason)}",
                hint=None
                if self.folder or self._is_http
                else "a URL of another kind than http, https and file may need a further Python package",
            ) from error

    def _must_be_there(self) -> None:
        """Raise UnreachableError for a folder that does not exist: a disk that is not mounted, most likely."""
        if self.folder and not self.folder.is_dir():
            raise UnreachableError(f"the substituter {self} can't be reached: there is no such folder")

    def _has(self, name: str) -> bool:
        system, root = self._remote
        try:
            with self._failures_explained():
                system.info(f"{root}/{name}")
        except FileNotFoundError:
            return False
        return True

    def files(self, packages: Iterable[tuple[str, int]]) -> frozenset[str]:
        """Return which files, given as (SHA-256, size in bytes), it has."""
        wanted = list(packages)
        if self.folder:
            return frozenset(self.paths(wanted))
        with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            there = pool.map(lambda file: self._has(f"files/{file[0]}"), wanted)
            return frozenset(sha256 for (sha256, _), found in zip(wanted, there, strict=True) if found)

    def paths(self, packages: Iterable[tuple[str, int]]) -> dict[str, Path]:
        """Return where a folder has which files, by SHA-256; whatever their names are."""
        self._must_be_there()
        sizes: dict[int, set[str]] = {}
        for sha256, size in packages:
            sizes.setdefault(size, set()).add(sha256)
        found: dict[str, Path] = {}
        with self._failures_explained():
            for path in sorted(self.folder.rglob("*")) if self.folder else ():
                # Only a file of the right size is worth hashing.
                wanted = sizes.get(path.stat().st_size, ()) if path.is_file() else ()
                if wanted and (digest := sha256_of(path)) in wanted:
                    found.setdefault(digest, path)
        return found

    def get(self, name: str, target: Path, *, limit: int) -> str | None:
        """Write what is there as *name*, of at most *limit* bytes, to *target*; return its SHA-256, None if missing."""
        digest, size = hashlib.sha256(), 0
        try:
            with target.open("wb") as file:
                for block in self._blocks(name):
                    size += len(block)
                    if size > limit:
                        raise ImagebuilderError(f"{name} of the substituter {self} is larger than it may be")
                    digest.update(block)
                    file.write(block)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def _blocks(self, name: str) -> Iterator[bytes]:
        """Yield what is there as *name*; what goes wrong where it is written is not our failure."""
        system, root = self._remote
        # In one stream, as many servers know no ranges.
        options = {"block_size": 0} if self._is_http else {}
        with self._failures_explained(), system.open(f"{root}/{name}", "rb", **options) as source:
            while block := source.read(BLOCK):
                yield block

    def put(self, source: Path, name: str, *, anew: bool = False) -> bool:
        """Bring the file *source* there as *name*, whole or not at all.

        Return False when one of its size is there already, unless *anew*.
        """
        system, root = self._remote
        target, new = f"{root}/{name}", f"{root}/incoming/{uuid.uuid4().hex}"
        with self._failures_explained("written"):
            if not anew and system.exists(target) and system.size(target) == source.stat().st_size:
                return False
            system.makedirs(f"{root}/incoming", exist_ok=True)
            self._sweep()
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(source), new)
            system.mv(new, target)
        return True

    def _sweep(self) -> None:
        """Remove from a folder what pushes left that were killed long ago; other places have rules of their own."""
        for path in (self.folder / "incoming").iterdir() if self.folder else ():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()

    def said(self, derivation: str, keys: Sequence[PublicKey], workspace: Path) -> Said | None:
        """Return what a trusted signature says of the output of *derivation*, None when it is not there.

        Raise ImagebuilderError when it is there and may not be used.
        """
        self._must_be_there()
        target = workspace / "envelope.json"
        if self.get(f"outputs/{derivation}.json", target, limit=2**20) is None:
            return None
        envelope = Envelope.from_json(target.read_bytes(), source=f"outputs/{derivation}.json of {self}")
        payload = verify(envelope, keys)
        try:
            said = Said.model_validate_json(payload)
        except ValidationError as error:
            raise ImagebuilderError("what is signed there is no description of an output") from error
        if envelope.payload_type != PAYLOAD_TYPE or said.derivation != derivation:
            raise ImagebuilderError(f"what is signed there is {said.derivation}")
        return said

    def receive(self, said: Said, folder: Path, workspace: Path) -> dict[str, str]:
        """Fill *folder* with the output that *said* describes, byte for byte; return the SHA-256 of its files."""
        from imagebuilder.store.packing import unpack  # zstandard is needed by nothing else

        archive = workspace / "archive"
        if self.get(f"archives/{said.archive}", archive, limit=said.archive_bytes) != said.archive:
            raise ImagebuilderError(f"the archive that {self} has is not the one that was signed")
        digests = unpack(archive, folder)
        archive.unlink()
        if manifest_of(folder, known=digests).digest != said.content:
            raise ImagebuilderError(f"what {self} has unpacks to something else than what was signed")
        return digests

    def offer(self, derivation: str, output: Path, manifest: Manifest, key: SigningKey, workspace: Path) -> bool:
        """Bring an output there, its archive before what is said of it; return False when it is there already."""
        from imagebuilder.store.packing import pack

        name = f"outputs/{derivation}.json"
        envelope, archive = workspace / "envelope.json", workspace / "archive"
        with contextlib.suppress(ImagebuilderError):
            if self.said(derivation, [key.public], workspace):
                return False
        pack(output, manifest, archive)
        said = Said(
            derivation=derivation,
            content=manifest.digest,
            archive=sha256_of(archive),
            archive_bytes=archive.stat().st_size,
        )
        envelope.write_text(sign(PAYLOAD_TYPE, said.model_dump_json().encode(), key).to_json() + "\n")
        self.put(archive, f"archives/{said.archive}")
        self.put(envelope, name, anew=True)
        return True
