"""The part of an image that no topology changes: its packages as a sealed-off file system, its kernel, its initrd."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import uuid5

from imagebuilder.build import mkosi
from imagebuilder.build.toolchain import extract, identities
from imagebuilder.lock import Closure, Lock
from imagebuilder.resources import PROFILES
from imagebuilder.store import Store, tree_digest
from imagebuilder.tools import Tools
from imagebuilder.topology import Role


@dataclass(frozen=True)
class Base:
    """What mkosi made of a role's packages."""

    folder: Path

    @property
    def root(self) -> Path:
        """The package tree as an erofs file system."""
        return self.folder / "root.erofs"

    @property
    def kernel(self) -> Path:
        """The kernel image."""
        return self.folder / "vmlinuz"

    @property
    def kernel_version(self) -> str:
        """The kernel's release, as in uname."""
        return (self.folder / "kernel-version").read_text().strip()

    @property
    def os_release(self) -> Path:
        """The distribution's os-release."""
        return self.folder / "os-release"

    @property
    def folders(self) -> frozenset[PurePosixPath]:
        """Every folder of the package tree."""
        return frozenset(map(PurePosixPath, (self.folder / "folders").read_text().splitlines()))


def build_base(
    store: Store, tools: Tools, lock: Lock, role: Role, *, extra_trees: Sequence[tuple[Path, str]] = ()
) -> Base:
    """Return the base of *role*; *extra_trees* are (output of the store, place in the image)."""
    packages = lock.closure(Closure(role))
    profiles = (PROFILES / "base", PROFILES / role)
    filesystem_uuid = str(uuid5(lock.seed, f"{role} root"))

    def make(folder: Path) -> None:
        with store.workspace() as workspace:
            built = mkosi.build(
                store,
                tools,
                packages,
                profiles=profiles,
                epoch=lock.epoch,
                seed=lock.seed,
                folder=workspace,
                extra_trees=extra_trees,
                environment={"FILESYSTEM_UUID": filesystem_uuid},
            )
            for name in ("root.erofs", "vmlinuz", "kernel-version", "os-release", "folders"):
                (built / name).rename(folder / name)

    inputs = {
        "packages": identities(packages),
        "tools": tools.tree.name,
        "profiles": [tree_digest(profile) for profile in profiles],
        "extra": [[source.name, target] for source, target in extra_trees],
        "epoch": lock.epoch,
        "seed": str(lock.seed),
    }
    return Base(store.output(f"{role}-base", inputs, make))


def build_initrd(store: Store, tools: Tools, lock: Lock, role: Role) -> Path:
    """Return the initrd of *role*'s kernel, a zstd-compressed cpio."""
    packages = lock.closure(Closure.INITRD)
    kernels = tuple(p for p in lock.closure(Closure(role)) if p.name.startswith("linux-image-6"))
    profile = PROFILES / "initrd"

    def make(folder: Path) -> None:
        with store.workspace() as workspace:
            kernel = workspace / "kernel"
            extract(store, kernels, kernel)
            built = mkosi.build(
                store,
                tools,
                packages,
                profiles=(profile,),
                epoch=lock.epoch,
                seed=lock.seed,
                folder=workspace,
                # Before the packages, so that mkosi knows the modules when it chooses among them.
                skeleton_trees=[(kernel / "boot", "/boot"), (kernel / "usr/lib/modules", "/usr/lib/modules")],
            )
            (built / "image.cpio.zst").rename(folder / "initrd")

    inputs = {
        "packages": identities(packages),
        "kernels": identities(kernels),
        "tools": tools.tree.name,
        "profile": tree_digest(profile),
        "epoch": lock.epoch,
        "seed": str(lock.seed),
    }
    return store.output(f"{role}-initrd", inputs, make) / "initrd"
