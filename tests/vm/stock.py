"""An ordinary Debian on a disk of its own, made of locked packages: what there is to be taken over."""

from pathlib import Path

from imagebuilder.build import mkosi
from imagebuilder.build.disk import STUBS
from imagebuilder.build.toolchain import extract
from imagebuilder.lock.model import Closure
from imagebuilder.plan import Derivation, Plan, kernels, tree_digest
from imagebuilder.resources import PROFILES
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role

STOCK = Path(__file__).parents[1] / "profiles"


def stock_disk(store: Store, tools: Tools, plan: Plan) -> Path:
    """Return the raw disk, built unless the store has it."""
    packages, initrd = plan.roles[Role.PROXY].packages, _initrd(plan)
    inputs = {
        "initrd": str(initrd),
        "packages": sorted(package.sha256 for package in packages),
        "profile": tree_digest(STOCK / "stock"),
    }

    def make(folder: Path) -> None:
        with store.workspace() as work:
            (work / "given").mkdir()
            (work / "given/mkosi.conf").write_text(f"[Content]\nInitrds={_built(initrd, store, tools, plan)}\n")
            built = mkosi.build(
                store,
                tools,
                packages,
                profiles=[STOCK / "stock", work / "given"],
                epoch=plan.lock.epoch,
                seed=plan.lock.seed,
                folder=work,
                # mkosi looks for its stub in the image.
                extra_trees=[(tools.tree / STUBS, f"/{STUBS}")],
            )
            (built / "image.raw").rename(folder / "disk.raw")

    return store.output(Derivation("stock", inputs), make) / "disk.raw"


def _initrd(plan: Plan) -> Derivation:
    """Return what the initrd of the images is with what ext4 needs."""
    packages = (*plan.lock.closure(Closure.INITRD), *kernels(plan.roles[Role.PROXY].packages))
    inputs = {
        "tools": str(plan.tools),
        "packages": sorted(package.sha256 for package in packages),
        "profiles": [tree_digest(STOCK / "stock-initrd"), tree_digest(PROFILES / "initrd")],
    }
    return Derivation("stock-initrd", inputs)


def _built(initrd: Derivation, store: Store, tools: Tools, plan: Plan) -> Path:
    def make(folder: Path) -> None:
        with store.workspace() as work:
            kernel = work / "kernel"
            extract(store, kernels(plan.roles[Role.PROXY].packages), kernel)
            built = mkosi.build(
                store,
                tools,
                plan.lock.closure(Closure.INITRD),
                profiles=[PROFILES / "initrd", STOCK / "stock-initrd"],
                epoch=plan.lock.epoch,
                seed=plan.lock.seed,
                folder=work,
                skeleton_trees=[(kernel / "boot", "/boot"), (kernel / "usr/lib/modules", "/usr/lib/modules")],
            )
            (built / "image.cpio.zst").rename(folder / "initrd")

    return store.output(initrd, make) / "initrd"
