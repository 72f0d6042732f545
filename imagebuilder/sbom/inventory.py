"""What the package tree of a role consists of, as the packages themselves say it. Reads the store."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debian.debfile import DebError, DebFile

from imagebuilder.lock.model import Closure, Lock, LockedPackage
from imagebuilder.plan import NODE_MODULES, Derivation
from imagebuilder.resources import PACKAGE
from imagebuilder.run import run
from imagebuilder.sbom.components import Component, Ecosystem, licences_in, npm_components, source_of
from imagebuilder.store.folder import Store
from imagebuilder.store.hashing import sha256_of
from imagebuilder.tools import Tools
from imagebuilder.topology import Role

BOOT_PACKAGES = ("grub-pc-bin", "systemd-boot-efi")
"""Tools of which parts are on the disk: what the firmware starts."""


@dataclass(frozen=True)
class Stage:
    """Where a role's packages are in the store."""

    role: Role
    base: str
    """Name of the output of its package tree."""
    lock: Lock
    npm_lock: str
    """Text of package-lock.json."""

    @property
    def packages(self) -> dict[LockedPackage, tuple[str, ...]]:
        """Each Debian package, and what it is for."""
        found: dict[LockedPackage, tuple[str, ...]] = {}
        for package in self.lock.packages:
            purposes = [str(c) for c in (Closure(self.role), Closure.INITRD) if c in package.closures]
            if package.name in BOOT_PACKAGES and Closure.TOOLS in package.closures:
                purposes.append("boot")
            if purposes:
                found[package] = tuple(purposes)
        return found

    @property
    def step(self) -> Derivation:
        """What is read once and then kept; it needs the .debs of all packages."""
        return Derivation(
            f"{self.role}-components",
            {
                "base": self.base,
                "packages": sorted(package.sha256 for package in self.packages),
                "builder": [sha256_of(PACKAGE / "sbom" / name) for name in ("components.py", "inventory.py")],
            },
        )


def components(store: Store, tools: Tools, stage: Stage) -> tuple[Component, ...]:
    """Return every component of *stage*'s image, sorted; unless the store has the stage's step, it needs the .debs."""
    said = _facts(store, tools, stage)
    debian = [
        Component(
            Ecosystem.DEBIAN,
            package.name,
            package.version,
            package.sha256,
            purposes,
            architecture=package.architecture,
            source=said["debian"][package.name]["source"],
            source_version=said["debian"][package.name]["source_version"],
            licences=tuple(said["debian"][package.name]["licences"]),
        )
        for package, purposes in stage.packages.items()
    ]
    return (*debian, *npm_components(stage.npm_lock, said["npm"]))


def _facts(store: Store, tools: Tools, stage: Stage) -> dict[str, Any]:
    """Return what the packages themselves say, kept in the store as it takes seconds to read."""

    def make(folder: Path) -> None:
        base = store.root / "outputs" / stage.base
        with store.workspace() as work:
            argv = ["fsck.erofs", f"--extract={work}/tree", "--overwrite", "--no-preserve", str(base / "root.erofs")]
            run(tools.argv(argv, read=[base], write=[work]))
            said = {
                "debian": {p.name: _debian_facts(store, p, work / "tree") for p in stage.packages},
                "npm": _installed(work / "tree" / NODE_MODULES.lstrip("/")),
            }
        (folder / "components.json").write_text(json.dumps(said, indent=1, sort_keys=True))

    found: dict[str, Any] = json.loads((store.output(stage.step, make) / "components.json").read_text())
    return found


def _debian_facts(store: Store, package: LockedPackage, tree: Path) -> dict[str, object]:
    copyright_file = f"usr/share/doc/{package.name}/copyright"
    with DebFile(store.file(package.sha256)) as deb:
        source, version = source_of(deb.debcontrol(), package)
        inside = (tree / copyright_file).resolve()
        if inside.is_file() and inside.is_relative_to(tree.resolve()):
            text = inside.read_text(errors="replace")
        else:
            text = _copyright_in(deb, copyright_file)
    return {"source": source, "source_version": version, "licences": licences_in(text)}


def _copyright_in(deb: DebFile, path: str) -> str:
    """Return the copyright file in *deb*, for a package whose tree is not at hand."""
    try:
        content = deb.data.get_content(path)
    except (DebError, KeyError):
        return ""
    return content.decode(errors="replace") if isinstance(content, bytes) else content or ""


def _installed(node_modules: Path) -> Sequence[str]:
    """Return the path below *node_modules* of every npm package there, sorted."""
    if not node_modules.is_dir():
        return []
    found = []
    for path in node_modules.rglob("package.json"):
        folder = path.parent.relative_to(node_modules).as_posix()
        # Packages may have such a file deeper inside, which makes no package.
        if re.fullmatch(r"(@[^/]+/)?[^/@]+", folder.rpartition("node_modules/")[2]):
            found.append(folder)
    return sorted(found)
