"""The last stage: a rendered tree appended to its role's base, sealed by dm-verity, on a disk that boots anywhere.

Of that the store keeps what no topology changes once, and what one decides as a small difference. The disk itself is
put together from both when it is wanted.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.build.base import COMPRESSION, Base
from imagebuilder.build.disk import Parts
from imagebuilder.build.frame import Frame, named
from imagebuilder.build.pieces import (
    Span,
    data_of,
    differing,
    overlaid,
    pieces_in,
    sha256_of_spans,
    write_pieces,
    write_spans,
)
from imagebuilder.build.verity import regrown
from imagebuilder.errors import ImagebuilderError
from imagebuilder.plan import Recorded, RolePlan
from imagebuilder.run import run
from imagebuilder.store.folder import Store, Used
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.tree import archive

DISK, FACTS, LAYERS = "disk.raw", "image.json", "layers.json"
"""What an image's output holds."""

MIB = 2**20
KEPT = 4
"""How many images of a role the store keeps as whole disks."""


@dataclass(frozen=True)
class Image:
    """A disk image as it ships, but for the secrets."""

    role: Role
    path: Path
    """Raw disk, sparse and read-only."""
    sha256: str
    size_bytes: int
    root_hash: str
    """dm-verity's, hexadecimal."""
    secrets_offset: int
    """Where the empty partition for the secrets begins, in bytes."""
    secrets_size: int
    """Its size, in bytes."""


@dataclass(frozen=True)
class Layers:
    """The outputs that a disk is put together from, the later over the earlier."""

    frame: Path
    base: Path
    difference: Path


def layers_of(store: Store, keys: Mapping[str, str], role: Role) -> Layers | None:
    """Return the layers of *role*'s disk; *keys* are its steps' by their names. None when *store* lacks one."""
    names = (f"{role}-{layer}" for layer in ("frame", "base", "difference"))
    steps = [Recorded(name, keys[name]) for name in names if name in keys]
    return Layers(*map(store.path, steps)) if len(steps) == 3 and all(map(store.has, steps)) else None


def build_difference(store: Store, tools: Tools, parts: Parts, frame: Frame) -> Path:
    """Return the folder of what *parts*' tree changes on the disk of *frame* with *parts*' base in it."""

    def make(folder: Path) -> None:
        layout, base = frame.layout, parts.base
        with store.workspace() as work:
            root, verity = append(tools, parts, work), work / "root.verity"
            size = root.stat().st_size
            if size > layout.root_size:
                raise ImagebuilderError(
                    f"the root file system of the {parts.plan.role} takes {-(-size // MIB):,} MiB,"
                    f" and its partition has {layout.root_size // MIB:,}"
                )
            changed = dict(differing(base.root, root))
            tree, root_hash = regrown(base.verity.read_bytes(), changed.items(), size)
            verity.write_bytes(tree)
            pieces = dict(named(frame, root_hash))
            pieces |= {layout.root + place: piece for place, piece in changed.items()}
            pieces |= {layout.verity + place: piece for place, piece in differing(base.verity, verity)}
            write_pieces(folder, sorted(pieces.items()))
        facts = {
            "size_bytes": layout.size,
            "root_hash": root_hash,
            "secrets_offset": layout.secrets,
            "secrets_size": layout.secrets_size,
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")

    return store.output(parts.plan.difference, make)


def build_image(store: Store, plan: RolePlan) -> Image:
    """Return the image of *plan*, put together from its layers, which the store has, unless it is there."""
    image = image_of(store, {step.name: step.key for step in plan.steps}, plan.role)
    assert image, plan.role
    return image


def image_of(store: Store, keys: Mapping[str, str], role: Role) -> Image | None:
    """Return the image of *role*, put together unless it is there; *keys* are the keys of steps by their names.

    None when neither the image nor all of its layers are in *store*.
    """
    step = Recorded(f"{role}-image", keys[f"{role}-image"])
    store.use(Used(outputs=frozenset([str(step)])))
    if not store.has(step):
        layers = layers_of(store, keys, role)
        if layers is None:
            return None
        store.output(step, lambda folder: put_together(layers, folder), doing="putting together")
    # What was used last is kept longest.
    with contextlib.suppress(PermissionError):  # somebody else's
        os.utime(store.path(step))
    return read_image(store.path(step), role)


def read_image(folder: Path, role: Role) -> Image:
    """Return the image of *role* that is the output in *folder*."""
    return Image(role, folder / DISK, **json.loads((folder / FACTS).read_text()))


def retire_images(store: Store, *, keep: int = KEPT) -> None:
    """Remove the images of each role that were used last but *keep*, if their layers are there to make them again.

    What a running process uses stays.
    """
    with store.collecting(), store.workspace() as workspace:
        used = store.in_use().outputs
        for role in Role:
            found = sorted(store.root.glob(f"outputs/*-{role}-image"), key=lambda path: -path.stat().st_mtime)
            for folder in found[keep:]:
                if folder.name not in used and _can_come_back(folder):
                    folder.rename(workspace / folder.name)


def _can_come_back(folder: Path) -> bool:
    layers = folder / LAYERS
    return layers.is_file() and all((folder.parent / name).is_dir() for name in json.loads(layers.read_text()))


def append(tools: Tools, parts: Parts, work: Path) -> Path:
    """Return a copy of the base file system that has the rendered tree too."""
    root, addition = work / "root.erofs", work / "tree.tar"
    with root.open("wb") as file:
        write_spans(data_of(parts.base.root), file.fileno())
    addition.write_bytes(archive(parts.plan.tree, epoch=parts.lock.epoch, existing=parts.base.folders))
    command = ["mkfs.erofs", "--quiet", "--tar=f", "--incremental=data", *COMPRESSION]
    command += ["-T", str(parts.lock.epoch), "-U", str(parts.uuid("root")), str(root), str(addition)]
    run(tools.argv(command, write=[work]))
    return root


def put_together(layers: Layers, folder: Path) -> dict[str, str]:
    """Write the disk that *layers* are, one over the other, to *folder*, with what is known of it; return its hash."""
    layout, disk = Frame(layers.frame).layout, folder / DISK
    spans = spans_of(layers)
    with disk.open("wb") as file, ThreadPoolExecutor(max_workers=1) as pool:
        file.truncate(layout.size)
        written = pool.submit(_written, spans, file.fileno())
        digest = sha256_of_spans(spans, layout.size)
        written.result()
    disk.chmod(0o444)
    facts = {"sha256": digest, **json.loads((layers.difference / FACTS).read_text())}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    names = [path.name for path in (layers.frame, layers.base, layers.difference)]
    (folder / LAYERS).write_text(json.dumps(names, indent=2) + "\n")
    return {DISK: digest}


def spans_of(layers: Layers) -> tuple[Span, ...]:
    """Return what lies where on the disk that *layers* are, one over the other."""
    frame, base = Frame(layers.frame), Base(layers.base)
    disk = data_of(frame.disk)
    for upper in (
        data_of(base.root, frame.layout.root),
        data_of(base.verity, frame.layout.verity),
        pieces_in(layers.difference),
    ):
        disk = overlaid(disk, upper)
    return disk


def _written(spans: Sequence[Span], disk: int) -> None:
    """Write *spans* to the open file *disk* and see them on the disk, as an output is before it gets its name."""
    write_spans(spans, disk)
    os.fsync(disk)
