"""The last stage: a rendered tree appended to its role's base, sealed by dm-verity, on a disk that boots anywhere.

Of that the store keeps what no topology changes once, and what one decides as a small difference. The disk itself is
put together from both when it is wanted.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.build.base import COMPRESSION, Base
from imagebuilder.build.disk import Contents, Parts
from imagebuilder.build.frame import Frame, named
from imagebuilder.build.pieces import copy_data, differing, lay_over, write_pieces
from imagebuilder.plan import Recorded, RolePlan
from imagebuilder.run import run
from imagebuilder.store.folder import Store, Used
from imagebuilder.store.hashing import sha256_of
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.tree import archive

DISK, FACTS, LAYERS = "disk.raw", "image.json", "layers.json"
"""What an image's output holds."""

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
        with store.workspace() as work:
            contents, root_hash = sealed_root(tools, parts, work)
            layout = frame.layout
            pieces = dict(named(frame, root_hash))
            pieces |= {layout.root + place: piece for place, piece in differing(parts.base.root, contents.root)}
            pieces[layout.verity] = contents.verity.read_bytes()
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


def sealed_root(tools: Tools, parts: Parts, work: Path) -> tuple[Contents, str]:
    """Make the root file system of *parts* and its hash tree in *work*; return both, and the root hash."""
    contents = Contents(append(tools, parts, work), work / "root.verity")
    return contents, seal(tools, parts, contents.root, contents.verity)


def append(tools: Tools, parts: Parts, work: Path) -> Path:
    """Return a copy of the base file system that has the rendered tree too."""
    root, addition = work / "root.erofs", work / "tree.tar"
    with root.open("wb") as file:
        copy_data(parts.base.root, file.fileno())
    addition.write_bytes(archive(parts.plan.tree, epoch=parts.lock.epoch, existing=parts.base.folders))
    command = ["mkfs.erofs", "--quiet", "--tar=f", "--incremental=data", *COMPRESSION]
    command += ["-T", str(parts.lock.epoch), "-U", str(parts.uuid("root")), str(root), str(addition)]
    run(tools.argv(command, write=[work]))
    return root


def seal(tools: Tools, parts: Parts, root: Path, verity: Path) -> str:
    """Write the hash tree of *root* to *verity* and return the root hash (hex)."""
    salt = parts.uuid("salt").hex * 2
    command = ["veritysetup", "format", f"--salt={salt}", f"--uuid={parts.uuid('verity')}"]
    command += [f"--root-hash-file={verity}.hash", str(root), str(verity)]
    run(tools.argv(command, write=[root.parent]))
    return Path(f"{verity}.hash").read_text().strip()


def put_together(layers: Layers, folder: Path) -> dict[str, str]:
    """Write the disk that *layers* are, one over the other, to *folder*, with what is known of it; return its hash."""
    frame, disk = Frame(layers.frame), folder / DISK
    with disk.open("wb") as file, ThreadPoolExecutor(max_workers=1) as pool:
        file.truncate(frame.layout.size)
        copy_data(frame.disk, file.fileno())
        copy_data(Base(layers.base).root, file.fileno(), frame.layout.root)
        lay_over(layers.difference, file.fileno())
        # An output reaches the disk before it gets its name: this one does while the processor is at the hash.
        written = pool.submit(os.fsync, file.fileno())
        digest = sha256_of(disk)
        written.result()
    disk.chmod(0o444)
    facts = {"sha256": digest, **json.loads((layers.difference / FACTS).read_text())}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    names = [path.name for path in (layers.frame, layers.base, layers.difference)]
    (folder / LAYERS).write_text(json.dumps(names, indent=2) + "\n")
    return {DISK: digest}
