"""The disks of this machine: what they are, what is on them, and which must not be overwritten. Runs lsblk."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import run

COLUMNS = "NAME,PATH,TYPE,SIZE,MODEL,SERIAL,TRAN,RO,LOG-SEC,PTTYPE,FSTYPE,LABEL,PARTLABEL,MOUNTPOINTS"
"""NAME is not looked at: without it a newer lsblk (seen: 2.41) lists partitions beside their disks and not in them."""
WHOLE = ("disk", "loop")
"""What lsblk calls a disk as a whole."""
NO_DISKS = ("/dev/zram", "/dev/ram", "/dev/nbd")
"""What lsblk calls a disk, and is none that is carried away."""
SECTOR_BYTES = 512
"""What the partition table of an image counts in."""


@dataclass(frozen=True)
class Disk:
    """A block device as lsblk shows it."""

    path: Path
    kind: str
    """disk, loop, part, rom …"""
    size_bytes: int
    model: str = ""
    serial: str = ""
    transport: str = ""
    """usb, sata, nvme, virtio …; empty when unknown."""
    sector_bytes: int = SECTOR_BYTES
    """The smallest piece that it takes."""
    read_only: bool = False
    contents: tuple[str, ...] = ()
    """File systems and partitions on it, for people."""
    mounted: tuple[str, ...] = ()
    """Where it or what is on it is mounted; [SWAP] for swap."""
    used_by: tuple[str, ...] = ()
    """Devices of LVM, RAID or encryption that are made of it."""
    part_of: Path | None = None
    """For a partition: its disk."""

    @property
    def name(self) -> str:
        """What an operator types: ``sdb``."""
        return self.path.name

    def __str__(self) -> str:
        kind = " ".join(word for word in (self.model, self.transport and f"({self.transport})") if word)
        parts = (kind, f"{self.size_bytes / 1e9:,.1f} GB", self.serial and f"serial {self.serial}")
        return f"{self.path}: {', '.join(part for part in parts if part)}; {self.summary}"

    @property
    def summary(self) -> str:
        """What is on it, in one line."""
        return ", ".join(self.contents) or "empty"


def refusal(disk: Disk, *, needed_bytes: int) -> str | None:
    """Return why *disk* must not be overwritten, or None. Pure."""
    if disk.part_of is not None:
        return f"it is a partition of {disk.part_of}; an image takes a whole disk"
    if disk.kind not in WHOLE:
        return f"it is no disk but of the kind {disk.kind!r}"
    if any(place in ("/", "/boot", "/boot/efi", "/efi", "/usr") for place in disk.mounted):
        return "this machine runs from it"
    if disk.mounted:
        return f"it is mounted at {', '.join(disk.mounted)}"
    if disk.used_by:
        return f"it is in use by {', '.join(disk.used_by)}"
    if not disk.size_bytes:
        return "there is no medium in it"
    if disk.read_only:
        return "it is write-protected"
    if disk.sector_bytes != SECTOR_BYTES:
        return f"its sectors have {disk.sector_bytes:,} bytes, the image is made for {SECTOR_BYTES}"
    if disk.size_bytes < needed_bytes:
        return f"it holds {disk.size_bytes:,} bytes, the system needs {needed_bytes:,}"
    return None


def disks() -> tuple[Disk, ...]:
    """Return every block device of this machine, each before its partitions."""
    return parsed(run(["lsblk", "--json", "--bytes", "--output", COLUMNS], hint="apt install util-linux").text)


def candidates(found: tuple[Disk, ...], *, needed_bytes: int) -> tuple[Disk, ...]:
    """Return those of *found* that an image could go to. Pure."""
    return tuple(
        disk
        for disk in found
        if disk.kind == "disk"
        and not str(disk.path).startswith(NO_DISKS)
        and refusal(disk, needed_bytes=needed_bytes) is None
    )


def named(path: Path, found: tuple[Disk, ...]) -> Disk:
    """Return that of *found* which *path* names, by a link too; raise ImagebuilderError when none is."""
    real = (path if path.is_absolute() or path.exists() else Path("/dev") / path).resolve()
    for disk in found:
        if disk.path == real:
            return disk
    said = "is no disk" if real.exists() else "does not exist"
    raise NoDiskError(f"{path} {said}", hint="imagebuilder flash ROLE lists the disks there are")


class NoDiskError(ImagebuilderError):
    """A disk was named that is none, or must not be overwritten."""

    status = ExitStatus.WRONG_INPUT


def parsed(text: str) -> tuple[Disk, ...]:
    """Return the devices in *text*, which lsblk printed. Pure."""
    return tuple(disk for node in json.loads(text)["blockdevices"] for disk in _disks(node, None))


def _disks(node: Mapping[str, Any], parent: Path | None) -> Iterator[Disk]:
    """Give the device of *node*, then its partitions."""
    path, children = Path(node["path"]), node.get("children") or []
    below = list(_below(node))
    yield Disk(
        path=path,
        kind=node["type"],
        size_bytes=int(node["size"] or 0),
        model=(node["model"] or "").strip(),
        serial=(node["serial"] or "").strip(),
        transport=node["tran"] or "",
        sector_bytes=int(node["log-sec"]),
        read_only=bool(node["ro"]),
        contents=tuple(told for one in (node, *children) if (told := _told(one))),
        mounted=tuple(dict.fromkeys(place for one in (node, *below) for place in _mounted(one) if place)),
        used_by=tuple(dict.fromkeys(one["path"] for one in below if one["type"] != "part")),
        part_of=parent if node["type"] == "part" else None,
    )
    for child in children:
        if child["type"] == "part":
            yield from _disks(child, path)


def _mounted(node: Mapping[str, Any]) -> Sequence[str]:
    """Return where *node* is mounted; an lsblk before util-linux 2.37 tells of one place only."""
    return node["mountpoints"] or () if "mountpoints" in node else [node["mountpoint"] or ""]


def _below(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give everything that is made of *node*."""
    for child in node.get("children") or ():
        yield child
        yield from _below(child)


def _told(node: Mapping[str, Any]) -> str:
    """Return what *node* holds, for people; empty when nothing that is known."""
    label = node["label"] or node["partlabel"] or ""
    if node["type"] != "part" and not node["fstype"]:
        return ""
    size = f"{int(node['size'] or 0) / 2**20:,.0f} MiB"
    return " ".join(word for word in (node["fstype"] or "partition", label and repr(label), size) if word)
