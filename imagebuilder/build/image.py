"""The last stage: a rendered tree appended to its role's base, sealed by dm-verity, on a disk that boots anywhere."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from imagebuilder.build.base import Base
from imagebuilder.lock.model import Lock
from imagebuilder.plan import KERNEL_COMMAND_LINE, PARTITIONS, RolePlan
from imagebuilder.run import run
from imagebuilder.store.folder import Store
from imagebuilder.store.hashing import sha256_of
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.tree import archive

SHIPPED_PARTITIONS = ("10-esp", "20-bios", "30-root-a", "31-root-a-verity", "40-secrets")
"""Definitions of the partitions that the image has; the others are made at first boot."""

GRUB_MODULES = ("biosdisk", "fat", "linux", "loadenv", "normal", "part_gpt", "search", "search_fs_file", "test")
GRUB_EARLY = "search --no-floppy --set=root --file /grub/grub.cfg\nset prefix=($root)/grub\n"

STUBS = Path("usr/lib/systemd/boot/efi")
GRUB = Path("usr/lib/grub/i386-pc")


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
class Parts:
    """What the last stage puts together."""

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
        return uuid5(self.lock.seed, f"{self.plan.role} {purpose}")


def build_image(store: Store, tools: Tools, parts: Parts) -> Image:
    """Return the image of *parts*, built unless the store has it."""

    def make(folder: Path) -> dict[str, str]:
        with store.workspace() as work:
            root = append(tools, parts, work)
            root_hash = seal(tools, parts, root, work / "root.verity")
            lay_out_esp(tools, parts, root_hash, work)
            disk = folder / "disk.raw"
            secrets_offset, secrets_size = assemble(tools, parts, root_hash, work, disk)
            install_grub(tools, disk, work)
            disk.chmod(0o444)
            digest = sha256_of(disk)
            facts = {
                "sha256": digest,
                "size_bytes": disk.stat().st_size,
                "root_hash": root_hash,
                "secrets_offset": secrets_offset,
                "secrets_size": secrets_size,
            }
            (folder / "image.json").write_text(json.dumps(facts, indent=2) + "\n")
            return {disk.name: digest}

    store.output(parts.plan.image, make)
    return finished_image(store, parts.plan)


def finished_image(store: Store, plan: RolePlan) -> Image:
    """Return the image of *plan*, which the store has."""
    folder = store.path(plan.image)
    return Image(plan.role, folder / "disk.raw", **json.loads((folder / "image.json").read_text()))


def append(tools: Tools, parts: Parts, work: Path) -> Path:
    """Return a copy of the base file system that has the rendered tree too."""
    root, addition = work / "root.erofs", work / "tree.tar"
    run(["cp", "--reflink=auto", str(parts.base.root), str(root)])
    root.chmod(0o644)
    addition.write_bytes(archive(parts.plan.tree, epoch=parts.lock.epoch, existing=parts.base.folders))
    command = ["mkfs.erofs", "--quiet", "--tar=f", "--incremental=data", "-zlz4", "-C65536"]
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


def assemble(tools: Tools, parts: Parts, root_hash: str, work: Path, disk: Path) -> tuple[int, int]:
    """Write the disk image; return (offset, size) of the secrets partition, in bytes."""
    definitions = write_definitions(parts, root_hash, work)
    command = ["systemd-repart", "--empty=create", "--size=auto", "--offline=yes", "--dry-run=no", "--json=short"]
    command += ["--sector-size=512", f"--seed={parts.uuid('disk')}", f"--definitions={definitions}", str(disk)]
    printed = run(
        tools.argv(command, write=[work, disk.parent], setenv=[*_dated(parts.lock.epoch), ("TMPDIR", str(work))])
    ).text
    for partition in json.loads(printed):
        if partition["label"] == "secrets":
            return int(partition["offset"]), int(partition["raw_size"])
    raise AssertionError(printed)


def write_definitions(parts: Parts, root_hash: str, work: Path) -> Path:
    """Write what systemd-repart lays out: the image's own definitions, and by drop-ins what goes into each."""
    folder = work / "repart.d"
    folder.mkdir()
    for name in SHIPPED_PARTITIONS:
        (source,) = (p for profile in parts.plan.profiles for p in (profile / PARTITIONS).glob(f"{name}.conf"))
        (folder / f"{name}.conf").write_bytes(source.read_bytes())
    contents: dict[str, Sequence[str]] = {
        "10-esp": ("Format=vfat", f"CopyFiles={work}/esp:/"),
        "30-root-a": (
            f"Label={parts.name}",
            f"CopyBlocks={work}/root.erofs",
            f"UUID={UUID(hex=root_hash[:32])}",
            "ReadOnly=yes",
        ),
        "31-root-a-verity": (
            f"Label={parts.name}_verity",
            f"CopyBlocks={work}/root.verity",
            f"UUID={UUID(hex=root_hash[32:])}",
            "ReadOnly=yes",
        ),
        "40-secrets": ("ReadOnly=yes",),
    }
    for name, lines in contents.items():
        drop_in = folder / f"{name}.conf.d"
        drop_in.mkdir()
        (drop_in / "contents.conf").write_text("[Partition]\n" + "\n".join(lines) + "\n")
    return folder


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
