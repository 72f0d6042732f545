"""Files by their path in the image, and the one archive form of them. Pure."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

ROOT = PurePosixPath(".")


@dataclass(frozen=True)
class TreeFile:
    """One file of a tree; it belongs to root."""

    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Tree:
    """Files and links of an image, without those of its packages."""

    files: Mapping[PurePosixPath, TreeFile] = field(default_factory=dict)
    """Relative path in the image to file."""
    links: Mapping[PurePosixPath, str] = field(default_factory=dict)
    """Relative path in the image to what the symbolic link says."""

    def __or__(self, other: "Tree") -> "Tree":
        return Tree({**self.files, **other.files}, {**self.links, **other.links})

    @property
    def folders(self) -> tuple[PurePosixPath, ...]:
        """Every folder that holds something, parents first."""
        paths = {parent for path in (*self.files, *self.links) for parent in path.parents}
        return tuple(sorted(paths - {ROOT}))

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the tree as an archive."""
        return hashlib.sha256(archive(self, epoch=0)).hexdigest()


@dataclass(frozen=True)
class Folder:
    """Whose a folder is, and who may enter."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


def archive(tree: Tree, *, epoch: int, existing: Mapping[PurePosixPath, Folder] | None = None) -> bytes:
    """Return *tree* as a tar whose bytes depend on nothing else: sorted, owned by root, dated *epoch* (Unix seconds).

    Every folder on the way to a file has an entry, as erofs makes one that has none writable for all; those in
    *existing* stay as they are there.
    """
    known = existing or {}
    entries: dict[PurePosixPath, tuple[tarfile.TarInfo, bytes]] = {}
    for path in (ROOT, *tree.folders):
        folder = known.get(path, Folder())
        entry = _entry(path, tarfile.DIRTYPE, folder.mode, epoch)
        entry.uid, entry.gid = folder.uid, folder.gid
        entries[path] = entry, b""
    for path, link in tree.links.items():
        entry = _entry(path, tarfile.SYMTYPE, 0o777, epoch)
        entry.linkname = link
        entries[path] = entry, b""
    for path, file in tree.files.items():
        entry = _entry(path, tarfile.REGTYPE, file.mode, epoch)
        entry.size = len(file.content)
        entries[path] = entry, file.content
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(entries):
            entry, content = entries[path]
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def from_archive(content: bytes) -> Tree:
    """Return the tree that *archive* made *content* of."""
    files, links = {}, {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for entry in tar:
            path = PurePosixPath(entry.name)
            if entry.issym():
                links[path] = entry.linkname
            elif (file := tar.extractfile(entry)) is not None:
                files[path] = TreeFile(file.read(), entry.mode)
    return Tree(files, links)


def _entry(path: PurePosixPath, kind: bytes, mode: int, epoch: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(str(path))
    entry.type, entry.mode, entry.mtime = kind, mode, epoch
    entry.uname = entry.gname = ""
    return entry
