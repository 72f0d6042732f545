"""The part of a disk that no topology changes: all of it but for the root file system and the root hash.

Where the root hash will stand, a stand-in does that is found again by its bytes. So what a topology decides is written
over a copy, in no time, and the outcome is the disk that `disk.lay_out` would make (an accept test compares them).
"""

import hashlib
import json
import mmap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from imagebuilder.build.disk import Parts, identifiers, lay_out
from imagebuilder.build.pieces import extents
from imagebuilder.gpt import HEAD_BYTES, TABLE_BYTES, fitted, identified
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools

STAND_IN = hashlib.sha256(b"imagebuilder: the root hash comes here").hexdigest()
"""As long as a root hash."""


@dataclass(frozen=True)
class Layout:
    """Where things are on the disk, in bytes."""

    size: int
    root: int
    root_size: int
    verity: int
    secrets: int
    secrets_size: int
    root_hashes: tuple[int, ...]
    """Where the root hash is named."""


@dataclass(frozen=True)
class Frame:
    """The output that holds the frame of a role."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The disk, its root empty."""
        return self.folder / "disk.raw"

    @property
    def layout(self) -> Layout:
        """Where things are on it."""
        told = json.loads((self.folder / "layout.json").read_text())
        return Layout(**told | {"root_hashes": tuple(told["root_hashes"])})


def build_frame(store: Store, tools: Tools, parts: Parts) -> Frame:
    """Return the frame of *parts*' role."""

    def make(folder: Path) -> None:
        frame = Frame(folder)
        with store.workspace() as work:
            partitions = lay_out(tools, parts, STAND_IN, work, frame.disk, contents=None)
        frame.disk.chmod(0o444)
        layout = Layout(
            size=frame.disk.stat().st_size,
            root=partitions[parts.name].offset,
            root_size=partitions[parts.name].length,
            verity=partitions[f"{parts.name}_verity"].offset,
            secrets=partitions["secrets"].offset,
            secrets_size=partitions["secrets"].length,
            root_hashes=tuple(places(frame.disk, STAND_IN.encode())),
        )
        (folder / "layout.json").write_text(json.dumps(asdict(layout), indent=2) + "\n")

    return Frame(store.output(parts.plan.frame, make))


def named(frame: Frame, root_hash: str) -> Iterator[tuple[int, bytes]]:
    """Give what of *frame* is to be written over for the root with *root_hash*, as offset and content."""
    layout = frame.layout
    with frame.disk.open("rb") as file:
        head = file.read(HEAD_BYTES)
    others = dict(zip(identifiers(STAND_IN), identifiers(root_hash), strict=True))
    first, last = fitted(identified(head, others), layout.size)
    yield 0, first
    for place in layout.root_hashes:
        yield place, root_hash.encode()
    yield layout.size - TABLE_BYTES, last


def places(path: Path, text: bytes) -> Iterator[int]:
    """Give every offset of *text* in the file *path*, holes left out."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        for start, end in extents(file.fileno()):
            place = content.find(text, start, end)
            while place != -1:
                yield place
                place = content.find(text, place + len(text), end)
