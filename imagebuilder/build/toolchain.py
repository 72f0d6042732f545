"""The tools tree: the toolchain's packages, extracted and never installed."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.lock.model import Closure, LockedPackage
from imagebuilder.plan import Plan
from imagebuilder.run import Workers, run
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools

EXTRA_FILES = {
    # Files that maintainer scripts would make, and without which programs stop.
    "etc/machine-id": "",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
}
LINKS = {"usr/bin/awk": "mawk"}


def extract(store: Store, packages: Sequence[LockedPackage], folder: Path) -> None:
    """Unpack *packages* into *folder*, no script of theirs being run."""
    first = [package for package in packages if package.name == "base-files"]
    for package in first:  # it makes the links /bin -> usr/bin …, which the others must find
        run(["dpkg-deb", "--extract", str(store.file(package.sha256)), str(folder)])
    rest = [package for package in packages if package.name != "base-files"]
    with Workers(max_workers=2) as pool:
        list(pool.map(lambda p: run(["dpkg-deb", "--extract", str(store.file(p.sha256)), str(folder)]), rest))


def build_tools(store: Store, plan: Plan) -> Tools:
    """Return the tools tree of *plan*, whose packages are in *store*."""

    def make(folder: Path) -> None:
        extract(store, plan.lock.closure(Closure.TOOLS), folder)
        for name, content in EXTRA_FILES.items():
            (folder / name).write_text(content)
        for name in ("passwd", "group"):
            shutil.copyfile(folder / f"usr/share/base-passwd/{name}.master", folder / f"etc/{name}")
        for name, target in LINKS.items():
            (folder / name).symlink_to(target)

    return Tools(store.output(plan.tools, make))
