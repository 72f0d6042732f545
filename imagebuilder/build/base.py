"""The part of an image that no topology changes: its packages as a sealed-off file system, its kernel, its initrd."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import UUID, uuid5

from imagebuilder.build import mkosi
from imagebuilder.build.toolchain import extract
from imagebuilder.build.verity import seal
from imagebuilder.lock.model import Closure, Lock
from imagebuilder.plan import NODE_MODULES, RolePlan, kernels
from imagebuilder.resources import PROFILES
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.tree import Folder

ALGORITHM, CLUSTER_BYTES = "zstd,level=3", 65536
"""How the root file system is compressed, and how much of it at once: a fifth smaller than LZ4 makes it."""
COMPRESSION = (f"-z{ALGORITHM}", f"-C{CLUSTER_BYTES}")
"""The same as options of mkfs.erofs."""


@dataclass(frozen=True)
class Base:
    """What mkosi made of a role's packages."""

    folder: Path

    @property
    def root(self) -> Path:
        """The package tree as an erofs file system."""
        return self.folder / "root.erofs"

    @property
    def verity(self) -> Path:
        """The hash tree of that."""
        return self.folder / "root.verity"

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
    def folders(self) -> dict[PurePosixPath, Folder]:
        """Every folder of the package tree, the root included."""
        found = {}
        for line in (self.folder / "folders").read_text().splitlines():
            mode, uid, gid, path = line.split(" ", 3)
            found[PurePosixPath(path)] = Folder(int(mode, 8), int(uid), int(gid))
        return found


def identifier(lock: Lock, role: Role, purpose: str) -> UUID:
    """Return the identifier of *purpose* in the image of *role*, always the same. Pure."""
    return uuid5(lock.seed, f"{role} {purpose}")


def build_base(store: Store, tools: Tools, lock: Lock, plan: RolePlan, *, node_modules: Path | None) -> Base:
    """Return the base of *plan*'s role; *node_modules* is what its plan names, if it names any."""
    extra_trees = [(node_modules, NODE_MODULES)] if node_modules else []

    def make(folder: Path) -> None:
        with store.workspace() as workspace:
            built = mkosi.build(
                store,
                tools,
                plan.packages,
                profiles=plan.profiles,
                epoch=lock.epoch,
                seed=lock.seed,
                folder=workspace,
                extra_trees=extra_trees,
                environment={
                    "FILESYSTEM_UUID": str(identifier(lock, plan.role, "root")),
                    "ALGORITHM": ALGORITHM,
                    "CLUSTER_BYTES": str(CLUSTER_BYTES),
                },
            )
            seal(
                tools,
                built / "root.erofs",
                built / "root.verity",
                salt=identifier(lock, plan.role, "salt").bytes * 2,
                uuid=identifier(lock, plan.role, "verity"),
            )
            for name in ("root.erofs", "root.verity", "vmlinuz", "kernel-version", "os-release", "folders"):
                (built / name).rename(folder / name)

    return Base(store.output(plan.base, make))


def build_initrd(store: Store, tools: Tools, lock: Lock, plan: RolePlan) -> Path:
    """Return the initrd of *plan*'s kernel, a zstd-compressed cpio."""

    def make(folder: Path) -> None:
        with store.workspace() as workspace:
            kernel = workspace / "kernel"
            extract(store, kernels(plan.packages), kernel)
            built = mkosi.build(
                store,
                tools,
                lock.closure(Closure.INITRD),
                profiles=[PROFILES / "initrd"],
                epoch=lock.epoch,
                seed=lock.seed,
                folder=workspace,
                # Before the packages, so that mkosi knows the modules when it chooses among them.
                skeleton_trees=[(kernel / "boot", "/boot"), (kernel / "usr/lib/modules", "/usr/lib/modules")],
            )
            (built / "image.cpio.zst").rename(folder / "initrd")

    store.output(plan.initrd, make)
    return initrd_in(store, plan)


def initrd_in(store: Store, plan: RolePlan) -> Path:
    """Return where *store* has the initrd of *plan*'s kernel, or will have it."""
    return store.path(plan.initrd) / "initrd"
