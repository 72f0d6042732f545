"""What will be built: every step from locked packages to disk images, as data with a content id. Pure but for reading
the package's own profiles and overlays."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.lock.model import Closure, Lock, LockedPackage
from imagebuilder.lock.wanted import check_complete
from imagebuilder.render import render_role, services_of
from imagebuilder.resources import PACKAGE, PROFILES
from imagebuilder.services import Site
from imagebuilder.topology import PublicKeys, Role, Topology
from imagebuilder.tree import Tree

FORMAT = 1
"""Part of every key: raised when the same inputs mean other bytes for a reason that no key sees."""

NPM_PROJECT = PROFILES / "proxy/npm"
"""Folder of package.json and package-lock.json, which has the SHA-512 of every npm package."""

NODE_MODULES = "/usr/lib/haraka/node_modules"
"""Where the proxy's npm packages are in its image."""

PARTITIONS = "mkosi.extra/usr/lib/repart.d"
"""Where a profile keeps the definitions of partitions, which the image itself uses at first boot."""

KERNEL_COMMAND_LINE = (
    "ro",
    "console=tty0",
    "console=ttyS0,115200",
    "quiet",
    "loglevel=4",
    # Nothing reads audit records here; without a daemon each would go to the console.
    "audit=0",
    "panic=30",
    # The root is named by its hash alone: nothing is guessed from partition types, on either firmware.
    "systemd.gpt_auto=no",
    # /etc can't hold an identity that lasts, the machine's firmware can.
    "systemd.machine_id=firmware",
    # No SSH by other ways than the network.
    "systemd.ssh_auto=no",
    # Not even root changes the kernel that runs: modules are Debian's own, signed, and its memory is not written.
    "lockdown=integrity",
)


@dataclass(frozen=True)
class Derivation:
    """One output of the store, known by everything that can change it."""

    name: str
    inputs: Mapping[str, object]
    """JSON-like."""

    @property
    def key(self) -> str:
        """Its content id, 32 hex digits."""
        told = {"format": FORMAT, "name": self.name, "inputs": self.inputs}
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def __str__(self) -> str:
        return f"{self.key}-{self.name}"


@dataclass(frozen=True)
class Recorded:
    """An output of the store that was made once, by what it was called then."""

    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.key}-{self.name}"


@dataclass(frozen=True)
class RolePlan:
    """The steps to one image."""

    role: Role
    tree: Tree
    """The rendered overlays."""
    units: tuple[str, ...]
    """What is enabled."""
    packages: tuple[LockedPackage, ...]
    initrd: Derivation
    base: Derivation
    frame: Derivation
    """The disk but for what the topology decides."""
    difference: Derivation
    """That."""
    image: Derivation
    """Put together from base, frame and difference."""

    @property
    def steps(self) -> tuple[Derivation, ...]:
        """All of them, each after those it is made from."""
        return self.initrd, self.base, self.frame, self.difference, self.image

    @property
    def profiles(self) -> tuple[Path, ...]:
        """mkosi settings of the package tree."""
        return PROFILES / "base", PROFILES / self.role


@dataclass(frozen=True)
class Plan:
    """Everything that a build does, in the order of its fields."""

    lock: Lock
    tools: Derivation
    npm_cache: Derivation
    node_modules: Derivation
    roles: Mapping[Role, RolePlan]
    installer: Derivation
    """Made when something is to be taken over, and no step to an image."""

    @property
    def steps(self) -> tuple[Derivation, ...]:
        """All derivations, each after those it is made from."""
        shared = (self.tools, self.npm_cache, self.node_modules)
        return shared + tuple(step for plan in self.roles.values() for step in plan.steps)

    @property
    def images(self) -> tuple[Derivation, ...]:
        """The last steps: put together from others in no time, so that nobody need send them around."""
        return tuple(plan.image for plan in self.roles.values())


def plan(topology: Topology, public: PublicKeys, lock: Lock) -> Plan:
    """Return what building *topology* with *lock* means; raise ImagebuilderError for a lock that lacks packages."""
    check_complete(lock)
    tools = Derivation(
        "tools", {"packages": _identities(lock.closure(Closure.TOOLS)), "builder": _builder("toolchain")}
    )
    npm = {"project": tree_digest(NPM_PROJECT), "tools": str(tools), "builder": _builder("npm")}
    node_modules = Derivation("node-modules", npm)
    roles = {
        role: _role_plan(Site(topology, public, role), lock, tools, node_modules if role is Role.PROXY else None)
        for role in Role
    }
    return Plan(lock, tools, Derivation("npm-cache", npm), node_modules, roles, _installer(lock, tools))


def _installer(lock: Lock, tools: Derivation) -> Derivation:
    return Derivation(
        "installer",
        {
            "tools": str(tools),
            "epoch": lock.epoch,
            "seed": str(lock.seed),
            "packages": _identities(lock.closure(Closure.INSTALLER)),
            # It drives what the proxy's kernel will drive.
            "kernels": _identities(kernels(lock.closure(Closure.PROXY))),
            "profile": tree_digest(PROFILES / "installer"),
            "builder": _builder("mkosi", "toolchain", "installer"),
        },
    )


def _role_plan(site: Site, lock: Lock, tools: Derivation, node_modules: Derivation | None) -> RolePlan:
    role = site.role
    packages = lock.closure(Closure(role))
    fixed = {"tools": str(tools), "epoch": lock.epoch, "seed": str(lock.seed)}
    initrd = Derivation(
        f"{role}-initrd",
        fixed
        | {
            "packages": _identities(lock.closure(Closure.INITRD)),
            "kernels": _identities(kernels(packages)),
            "profile": tree_digest(PROFILES / "initrd"),
            "builder": _builder("mkosi", "toolchain", "base"),
        },
    )
    base = Derivation(
        f"{role}-base",
        fixed
        | {
            "packages": _identities(packages),
            "profiles": [tree_digest(PROFILES / "base"), tree_digest(PROFILES / role)],
            "node_modules": str(node_modules or ""),
            "builder": _builder("mkosi", "base", "verity"),
        },
    )
    frame = Derivation(
        f"{role}-frame",
        fixed
        | {
            "base": str(base),
            "initrd": str(initrd),
            "partitions": [tree_digest(PROFILES / part / PARTITIONS) for part in ("base", role)],
            "command_line": KERNEL_COMMAND_LINE,
            "builder": _builder("disk", "frame"),
        },
    )
    tree = render_role(site)
    difference = Derivation(
        f"{role}-difference",
        fixed | {"frame": str(frame), "tree": tree.digest(), "builder": _builder("image", "pieces", "verity")},
    )
    image = Derivation(f"{role}-image", {"difference": str(difference), "builder": _builder("image", "pieces")})
    units = tuple(unit for service in services_of(site) for unit in service.units)
    return RolePlan(role, tree, units, packages, initrd, base, frame, difference, image)


def kernels(packages: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return the packages among *packages* that are a kernel with its modules. Pure."""
    return tuple(p for p in packages if p.name.startswith("linux-image-") and p.name[12].isdigit())


def tree_digest(folder: Path) -> str:
    """Return the SHA-256 (hex) of *folder*'s file names, executable bits and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            executable = bool(path.stat().st_mode & 0o100)
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()} {executable} {content}\n".encode())
    return digest.hexdigest()


def _identities(packages: Sequence[LockedPackage]) -> list[str]:
    return sorted(package.sha256 for package in packages)


def _builder(*modules: str) -> str:
    """Return the digest of the modules of build/ that make a step: other code may make other bytes."""
    content = b"".join((PACKAGE / "build" / f"{module}.py").read_bytes() for module in modules)
    return hashlib.sha256(content).hexdigest()
