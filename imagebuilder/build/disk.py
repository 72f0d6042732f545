"""A whole disk: a sealed root file system laid out with all that boots it, by UEFI and by BIOS."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from imagebuilder.build.base import Base, identifier
from imagebuilder.lock.model import Lock
from imagebuilder.plan import KERNEL_COMMAND_LINE, PARTITIONS, RolePlan
from imagebuilder.run import run
from imagebuilder.tools import Tools

SHIPPED_PARTITIONS = ("10-esp", "20-bios", "30-root-a", "31-root-a-verity", "40-secrets")
"""Definitions of the partitions that the image has; the others are made at first boot."""

GRUB_MODULES = ("biosdisk", "fat", "linux", "loadenv", "normal", "part_gpt", "search", "search_fs_file", "test")
GRUB_EARLY = "search --no-floppy --set=root --file /grub/grub.cfg\nset prefix=($root)/grub\n"

STUBS = Path("usr/lib/systemd/boot/efi")
GRUB = Path("usr/lib/grub/i386-pc")


@dataclass(frozen=True)
class Parts:
    """What the last stages put together."""

    plan: RolePlan
    lock: Lock
    base: Base
    initrd: Path

    @property
    def name(self) -> str:
        """What the image is called on its own disk."""
        return f"imagebuilder-{self.plan.role}_1"

    def uuid(self, purpose: str) -> UUID:
        """Return the identifier of *purpose*, always the same."""
        return identifier(self.lock, self.plan.role, purpose)


@dataclass(frozen=True)
class Extent:
    """Where a partition lies, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True)
class Contents:
    """What goes into the partitions of the root: the file system and its hash tree."""

    root: Path
    verity: Path


def lay_out(
    tools: Tools, parts: Parts, root_hash: str, work: Path, disk: Path, *, contents: Contents | None
) -> dict[str, Extent]:
    """Write the disk image *disk* and return its partitions by label; without *contents* those of the root are empty.

    *work* is a folder for what is needed on the way, which holds *contents*.
    """
    lay_out_esp(tools, parts, root_hash, work)
    partitions = assemble(tools, parts, root_hash, work, disk, contents)
    install_grub(tools, disk, work)
    return partitions


def identifiers(root_hash: str) -> tuple[UUID, UUID]:
    """Return what the partitions of the root and of its hash tree are found by, from the root hash. Pure."""
    return UUID(hex=root_hash[:32]), UUID(hex=root_hash[32:])


def command_line(root_hash: str) -> str:
    """Return what the kernel is started with. Pure."""
    return " ".join((f"roothash={root_hash}", *KERNEL_COMMAND_LINE))


def grub_menu(name: str, root_hash: str) -> str:
    """Return GRUB's menu, for machines whose firmware is BIOS. Pure."""
    return (
        "set timeout=0\n"
        f'menuentry "{name}" {{\n'
        f"    linux /{name}/vmlinuz {command_line(root_hash)}\n"
        f"    initrd /{name}/initrd\n"
        "}\n"
    )


def lay_out_esp(tools: Tools, parts: Parts, root_hash: str, work: Path) -> None:
    """Write the files of the EFI system partition to ``work/esp``: for UEFI one UKI, for BIOS GRUB's menu."""
    esp, stubs = work / "esp", tools.tree / STUBS
    boot = (stubs / "systemd-bootx64.efi").read_bytes()
    files = {
        "EFI/BOOT/BOOTX64.EFI": boot,
        "EFI/systemd/systemd-bootx64.efi": boot,
        "loader/loader.conf": b"timeout 0\neditor no\n",
        "grub/grub.cfg": grub_menu(parts.name, root_hash).encode(),
        f"{parts.name}/vmlinuz": parts.base.kernel.read_bytes(),
        f"{parts.name}/initrd": parts.initrd.read_bytes(),
    }
    for name, content in files.items():
        (esp / name).parent.mkdir(parents=True, exist_ok=True)
        (esp / name).write_bytes(content)
    uki = esp / f"EFI/Linux/{parts.name}.efi"
    uki.parent.mkdir()
    command = ["ukify", "build", f"--linux={parts.base.kernel}", f"--initrd={parts.initrd}"]
    command += [f"--cmdline={command_line(root_hash)}", f"--os-release=@{parts.base.os_release}"]
    command += [f"--uname={parts.base.kernel_version}", f"--stub=/{STUBS}/linuxx64.efi.stub", f"--output={uki}"]
    read = [parts.base.folder, parts.initrd.parent]
    run(tools.argv(command, read=read, write=[work], setenv=_dated(parts.lock.epoch)))
    for path in [*esp.rglob("*"), esp]:
        os.utime(path, (parts.lock.epoch, parts.lock.epoch))


def assemble(
    tools: Tools, parts: Parts, root_hash: str, work: Path, disk: Path, contents: Contents | None
) -> dict[str, Extent]:
    """Write the disk with the partitions that the image has; return them by label."""
    definitions = write_definitions(parts, root_hash, work, contents)
    command = ["systemd-repart", "--empty=create", "--size=auto", "--offline=yes", "--dry-run=no", "--json=short"]
    command += ["--sector-size=512", f"--seed={parts.uuid('disk')}", f"--definitions={definitions}", str(disk)]
    printed = run(
        tools.argv(command, write=[work, disk.parent], setenv=[*_dated(parts.lock.epoch), ("TMPDIR", str(work))])
    ).text
    return {one["label"]: Extent(int(one["offset"]), int(one["raw_size"])) for one in json.loads(printed)}


def write_definitions(parts: Parts, root_hash: str, work: Path, contents: Contents | None) -> Path:
    """Write what systemd-repart lays out: the image's own definitions, and by drop-ins what goes into each."""
    folder = work / "repart.d"
    folder.mkdir()
    for name in SHIPPED_PARTITIONS:
        (source,) = (p for profile in parts.plan.profiles for p in (profile / PARTITIONS).glob(f"{name}.conf"))
        (folder / f"{name}.conf").write_bytes(source.read_bytes())
    root, verity = identifiers(root_hash)
    added: Mapping[str, Sequence[str]] = {
        "10-esp": ("Format=vfat", f"CopyFiles={work}/esp:/"),
        "30-root-a": (
            f"Label={parts.name}",
            f"UUID={root}",
            "ReadOnly=yes",
            *_blocks(contents.root if contents else None),
        ),
        "31-root-a-verity": (
            f"Label={parts.name}_verity",
            f"UUID={verity}",
            "ReadOnly=yes",
            *_blocks(contents.verity if contents else None),
        ),
        "40-secrets": ("ReadOnly=yes",),
    }
    for name, lines in added.items():
        drop_in = folder / f"{name}.conf.d"
        drop_in.mkdir()
        (drop_in / "contents.conf").write_text("[Partition]\n" + "\n".join(lines) + "\n")
    return folder


def _blocks(content: Path | None) -> tuple[str, ...]:
    return (f"CopyBlocks={content}",) if content else ()


def install_grub(tools: Tools, disk: Path, work: Path) -> None:
    """Make *disk* boot on BIOS: GRUB's core in its own partition, its first sector in the disk's."""
    grub = work / "grub"
    grub.mkdir()
    (grub / "early.cfg").write_text(GRUB_EARLY)
    (grub / "boot.img").write_bytes((tools.tree / GRUB / "boot.img").read_bytes())
    command = ["grub-mkimage", f"--directory=/{GRUB}", f"--config={grub}/early.cfg", "--prefix=/grub"]
    command += [f"--output={grub}/core.img", "--format=i386-pc", *GRUB_MODULES]
    run(tools.argv(command, write=[grub]))
    # grub-bios-setup wants to open the device that its folder is on, which it needs only when it can't embed itself;
    # told that the folder is on our disk image, it works without privileges.
    mounts = work / "mountinfo"
    mounts.write_text(f"1 0 1:1 / / - fat {disk}\n")
    command = [f"/{GRUB}/grub-bios-setup", f"--directory={grub}", str(disk)]
    run(tools.argv(command, write=[work, disk.parent], over=[(mounts, Path("/proc/self/mountinfo"))]))


def _dated(epoch: int) -> list[tuple[str, str]]:
    return [("SOURCE_DATE_EPOCH", str(epoch))]
