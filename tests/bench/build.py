"""Measure builds against their peers and floors, and print a table: ``python -m tests.bench.build TOPOLOGY``.

The store of the environment must have the topology's packages (``imagebuilder build`` leaves it so). The peer of a
whole build is mmdebstrap (which must be installed) making the same two package sets as plain tarballs; the floor of a
change of configuration is mkfs.erofs and veritysetup over the same two trees.
"""

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from imagebuilder.build.mkosi import make_repository
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.lock.model import RELEASE
from imagebuilder.pipeline import Built, build
from imagebuilder.plan import Plan
from imagebuilder.run import run, say
from imagebuilder.store.folder import Store


def seconds(work: Callable[[], object]) -> float:
    """Return how long *work* takes, on the wall."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def command(store: Store, topology: Path) -> None:
    """Run ``imagebuilder build`` as a user does."""
    argv = [sys.executable, "-m", "imagebuilder", "build", "-t", str(topology)]
    run(argv, env={"IMAGEBUILDER_STORE": str(store.root)})


def cold(store: Store, topology: Path, work: Path) -> float:
    """Return the seconds of a build in a store that has nothing but the downloads."""
    fresh = Store(work / "cold")
    fresh.root.mkdir()
    run(["cp", "--archive", "--link", str(store.root / "files"), str(fresh.root / "files")])
    plan = Files(topology).plan()
    # What npm fetches is a download too.
    fresh.path(plan.npm_cache).parent.mkdir()
    shutil.copytree(store.path(plan.npm_cache), fresh.path(plan.npm_cache))
    return seconds(lambda: command(fresh, topology))


def changed(store: Store, topology: Path, work: Path) -> float:
    """Return the median seconds of three builds, each after another change of one line that both images see."""
    taken = []
    copy = work / "topology.toml"
    for suffix in (".lock", ".public.toml"):
        shutil.copy(topology.with_suffix(suffix), copy.with_suffix(suffix))
    text = topology.read_text()
    for _ in range(3):
        mtu = 1280 + time.monotonic_ns() % 140
        copy.write_text(re.sub(r"^mtu = \d+", f"mtu = {mtu}", text, flags=re.MULTILINE))
        taken.append(seconds(lambda: command(store, copy)))
    return statistics.median(taken)


def floor(store: Store, built: Built, plan: Plan, work: Path) -> float:
    """Return the seconds that mkfs.erofs and veritysetup take over both package trees."""
    taken = 0.0
    for role, role_plan in plan.roles.items():
        tree, out = work / f"{role}-tree", work / f"{role}-floor"
        base = store.path(role_plan.base)
        extract = ["fsck.erofs", f"--extract={tree}", str(base / "root.erofs")]
        run(built.tools.argv(extract, read=[base], write=[work]))
        make = f"mkfs.erofs --quiet -zlz4 -C65536 {out} {tree} && veritysetup format {out} {out}.verity"
        argv = built.tools.argv(["sh", "-c", make], write=[work])
        taken += seconds(lambda argv=argv: run(argv))  # type: ignore[misc]
    return taken


def peer(store: Store, plan: Plan, work: Path) -> float | None:
    """Return the seconds in which mmdebstrap makes both package sets as tarballs; None where it is not installed."""
    if not shutil.which("mmdebstrap"):
        return None
    taken = 0.0
    for role, role_plan in plan.roles.items():
        repository = work / f"{role}-repository"
        make_repository(store, role_plan.packages, repository)
        names = ",".join(package.name for package in role_plan.packages)
        argv = ["mmdebstrap", "--quiet", "--variant=custom", f"--include={names}", RELEASE, str(work / f"{role}.tar")]
        argv.append(f"deb [trusted=yes] copy:{repository} {RELEASE} main")
        taken += seconds(lambda argv=argv: run(argv, timeout_s=1200))  # type: ignore[misc]
    return taken


def compressed(path: Path) -> int:
    """Return the size of *path* under zstd, in bytes."""
    with subprocess.Popen(["zstd", "-3", "-T0", "-c", "-q", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        size = 0
        while block := process.stdout.read(2**20):
            size += len(block)
        return size


def main(topology: Path) -> None:
    """Measure, and print a table in Markdown."""
    store, plan = the_store(), Files(topology).plan()
    built = build(store, plan, sources_of_environment())
    with tempfile.TemporaryDirectory(dir=store.root) as folder:
        work = Path(folder)
        say("cold build")
        whole = cold(store, topology, work)
        say("mmdebstrap")
        other = peer(store, plan, work)
        say("nothing changed")
        idle = statistics.median(seconds(lambda: command(store, topology)) for _ in range(5))
        say("one line changed")
        line = changed(store, topology, work)
        say("floor")
        least = floor(store, built, plan, work)
    rows = [
        ("cold build of both images, packages fetched", f"{whole:.0f} s", versus(whole, other, "mmdebstrap")),
        ("nothing changed", f"{idle:.2f} s", ""),
        ("one line changed, both images", f"{line:.1f} s", versus(line, least, "mkfs.erofs + veritysetup")),
    ]
    for role, image in built.images.items():
        allocated = image.path.stat().st_blocks * 512
        sizes = f"{image.size_bytes / 2**20:,.0f} MiB raw, {allocated / 2**20:,.0f} MiB on disk"
        rows.append((f"{role} image", sizes, f"{compressed(image.path) / 2**20:,.0f} MiB as zstd -3"))
    print(f"{platform.machine()}, {os.cpu_count()} cores\n\n| what | here | against |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def versus(mine: float, other: float | None, name: str) -> str:
    """Return the ratio of *mine* to *other* as a cell of the table. Pure."""
    return f"{mine / other:.2f} times {name} ({other:.1f} s)" if other else f"{name} is not installed"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
