"""Running mkosi: offline, from a local repository of locked packages, with the tools tree as its toolchain."""

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

from imagebuilder.lock.model import RELEASE, LockedPackage
from imagebuilder.run import run
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools


def settings(
    *, profiles: Sequence[Path], repository: Path, tools: Tools, epoch: int, seed: UUID, environment: Mapping[str, str]
) -> str:
    """Return the mkosi.conf that ties *profiles* to locked inputs. Pure."""
    variables = "".join(f"    {name}={value}\n" for name, value in sorted(environment.items()))
    return (
        "[Include]\n"
        "Include=\n" + "".join(f"    {profile}\n" for profile in profiles) + "\n"
        "[Distribution]\n"
        "Distribution=debian\n"
        f"Release={RELEASE}\n"
        "Architecture=x86-64\n"
        f"LocalMirror=file://{repository}\n\n"
        "[Output]\n"
        "Output=image\n"
        "OutputDirectory=output\n"
        f"Seed={seed}\n\n"
        "[Content]\n"
        f"SourceDateEpoch={epoch}\n\n"
        "[Build]\n"
        f"ToolsTree={tools.tree}\n"
        "WithNetwork=no\n"
        "Incremental=no\n"
        f"WorkspaceDirectory={repository.parent}/work\n"
        # mkosi would take /var/cache as root, which it believes to be in a plain user's namespace too.
        f"PackageCacheDirectory={repository.parent}/cache\n"
        "BuildSources=\n"
        "Environment=\n" + variables
    )


def build(
    store: Store,
    tools: Tools,
    packages: Sequence[LockedPackage],
    *,
    profiles: Sequence[Path],
    epoch: int,
    seed: UUID,
    folder: Path,
    skeleton_trees: Sequence[tuple[Path, str]] = (),
    extra_trees: Sequence[tuple[Path, str]] = (),
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Build what *profiles* describe from *packages* inside *folder*; return the folder of mkosi's outputs.

    *skeleton_trees* (there before the packages) and *extra_trees* (after them) are (folder, place in the image).
    """
    repository, project = folder / "repository", folder / "project"
    make_repository(store, packages, repository)
    for path in (project, project / "output", folder / "work", folder / "tmp"):
        path.mkdir()
    profiles = [with_plain_modes(profile, folder / "profiles" / profile.name) for profile in profiles]
    text = settings(
        profiles=profiles, repository=repository, tools=tools, epoch=epoch, seed=seed, environment=environment or {}
    )
    (project / "mkosi.conf").write_text(text)
    argv = [sys.executable, "-I", "-c", LAUNCH, str(tools.tree / "usr/lib/python3/dist-packages")]
    argv += ["--directory", str(project), "--force"]
    argv += [f"--skeleton-tree={source}:{target}" for source, target in skeleton_trees]
    argv += [f"--extra-tree={source}:{target}" for source, target in extra_trees]
    if clock := tools.clock:
        # In the sandbox of what installs packages, and in the tree, where their scripts run.
        place = f"{clock.library}:{CLOCK_LIBRARY}"
        argv += [f"--sandbox-tree={place}", f"--skeleton-tree={place}", f"--remove-files={CLOCK_LIBRARY}"]
        argv += [f"--environment={name}={value}" for name, value in clock.variables(CLOCK_LIBRARY)]
    run(
        [*_alone(), *in_memory(folder / "work"), *argv, "build"],
        env={"TMPDIR": str(folder / "tmp")},
        timeout_s=3600,
        name="mkosi",
    )
    return project / "output"


def with_plain_modes(source: Path, target: Path) -> Path:
    """Copy the folder *source* to *target* with the modes that git knows, whatever the umask of the checkout was."""
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
    return target


LAUNCH = (
    "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv.pop(1)); sys.argv[0] = 'mkosi'; "
    "from mkosi.__main__ import main; main()"
)
"""Starts mkosi of the tools tree with our interpreter, which leaves nothing of its own there."""


CLOCK_LIBRARY = "/etc/libfaketime.so.1"
"""Where mkosi's sandboxes have the library of another time."""


def _alone() -> list[str]:
    """Return what runs mkosi without a network, and in namespaces that end with it, whatever it left running.

    A plain user is root in there too, of the ids that are subordinate to it, so that owners are the same for all.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto"]
    return ["unshare", *user, "--net", "--pid", "--mount-proc", "--kill-child", "--"]


MEMORY_MIB = 6144
"""What must be free for the trees of both roles to be made in memory: they take 1.5 GiB each."""


def in_memory(folder: Path) -> list[str]:
    """Return what mounts a file system in memory at *folder* before it runs the rest of an argv, if there is room.

    ext4 looks at length for a place for each of thousands of files where as many were just removed: a third of all
    processor time that mkosi took.
    """
    if free_memory_mib() < MEMORY_MIB:
        return []
    return ["sh", "-c", 'mount -t tmpfs -o mode=0755 tmpfs "$1" && shift && exec "$@"', "sh", str(folder)]


def free_memory_mib() -> int:
    """Return how much memory may still be taken, by this machine and by the control group that we are in."""
    words = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = [next(int(word[1]) * 1024 for word in words if word[0] == "MemAvailable:")]
    group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # no such group here, or no limit
            taken, limit = (folder / "memory.current").read_text(), (folder / "memory.max").read_text()
            free.append(int(limit) - int(taken))
    return min(free) // 2**20


def make_repository(store: Store, packages: Sequence[LockedPackage], folder: Path) -> None:
    """Write an apt repository of *packages* to *folder*, in the shape that mkosi's LocalMirror= wants."""
    pool = folder / "pool"
    pool.mkdir(parents=True)
    stanzas = []
    for package in packages:
        target = pool / package.file_name
        _link(store.file(package.sha256), target)
        control = _control(store.file(package.sha256))
        stanzas.append(
            f"{control}\nFilename: pool/{package.file_name}\nSize: {package.size}\nSHA256: {package.sha256}\n"
        )
    index = folder / "dists" / RELEASE / "main/binary-amd64"
    index.mkdir(parents=True)
    (index / "Packages").write_text("\n".join(stanzas))
    (folder / "dists" / RELEASE / "Release").write_text(
        f"Origin: imagebuilder\nSuite: {RELEASE}\nCodename: {RELEASE}\nArchitectures: amd64\nComponents: main\n"
    )


@functools.cache  # most packages are in several repositories
def _control(package: Path) -> str:
    return run(["dpkg-deb", "--field", str(package)]).text.rstrip("\n")


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or links to files of others forbidden
        shutil.copyfile(source, target)
