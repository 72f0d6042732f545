"""The small system that takes over a running one: a kernel, an initrd that stays, and what starts them there."""

from dataclasses import dataclass
from pathlib import Path

from zstandard import ZstdDecompressor

from imagebuilder.build import mkosi
from imagebuilder.build.toolchain import extract
from imagebuilder.lock.model import Closure
from imagebuilder.plan import Plan, kernels
from imagebuilder.resources import PROFILES
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools


@dataclass(frozen=True)
class Installer:
    """What is sent to a machine that is taken over."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The proxy's kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The whole system, a zstd-compressed cpio."""
        return self.folder / "initrd"

    @property
    def kit(self) -> Path:
        """A tar archive of what runs on the system that is left: ld.so, kexec, cpio, zstd and their libraries."""
        return self.folder / "kit.tar"

    @property
    def unpacked_bytes(self) -> int:
        """Size of the initrd's cpio: what its files hold, which in memory take whole pages, a twentieth more."""
        with self.initrd.open("rb") as packed, ZstdDecompressor().stream_reader(packed) as cpio:
            return sum(len(piece) for piece in iter(lambda: cpio.read(2**20), b""))

    @property
    def drivers(self) -> frozenset[str]:
        """Names of all modules of the kernel, with underscores, built in or not."""
        return frozenset((self.folder / "drivers").read_text().split())


def build_installer(store: Store, tools: Tools, plan: Plan) -> Installer:
    """Return the installer of *plan*, whose packages are in *store*, built unless it is there."""

    def make(folder: Path) -> None:
        with store.workspace() as workspace:
            kernel = workspace / "kernel"
            extract(store, kernels(plan.lock.closure(Closure.PROXY)), kernel)
            built = mkosi.build(
                store,
                tools,
                plan.lock.closure(Closure.INSTALLER),
                profiles=[PROFILES / "installer"],
                epoch=plan.lock.epoch,
                seed=plan.lock.seed,
                folder=workspace,
                skeleton_trees=[(kernel / "boot", "/boot"), (kernel / "usr/lib/modules", "/usr/lib/modules")],
            )
            (built / "image.cpio.zst").rename(folder / "initrd")
            (built / "kit.tar").rename(folder / "kit.tar")
            (image,) = (kernel / "boot").glob("vmlinuz-*")
            image.rename(folder / "vmlinuz")
            (folder / "drivers").write_text("".join(f"{name}\n" for name in _drivers(kernel / "usr/lib/modules")))

    return Installer(store.output(plan.installer, make))


def _drivers(modules: Path) -> list[str]:
    """Return the names of the modules in the folder *modules* of one kernel, and of those built into it."""
    built_in = [Path(line) for file in modules.rglob("modules.builtin") for line in file.read_text().split()]
    found = {path.name.partition(".ko")[0] for path in (*modules.rglob("*.ko*"), *built_in)}
    return sorted(name.replace("-", "_") for name in found)
