"""Measure builds against their peers and floors, and print a table: ``python -m tests.bench.build TOPOLOGY``.

The store of the environment must have the topology's packages (``imagebuilder build`` leaves it so). The peer of a
whole build is mmdebstrap (which must be installed) making the same two package sets as plain tarballs; the floor of a
change of configuration is mkfs.erofs and veritysetup over the same two trees. Name parts (cold, idle, line, further)
behind the topology to measure only these.
"""

import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imagebuilder.build.base import COMPRESSION
from imagebuilder.build.mkosi import make_repository
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.lock.model import RELEASE
from imagebuilder.pipeline import Built, build
from imagebuilder.plan import Plan
from imagebuilder.run import run, say
from imagebuilder.store.folder import Store
from imagebuilder.store.upkeep import size_of

FURTHER = 10
"""How many topologies share a base with the first."""
MIB = 2**20


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


def idle(store: Store, topology: Path) -> tuple[float, float]:
    """Return the median seconds, on the wall and of the processor, of a build with nothing to do."""
    walls, processors = [], []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(seconds(lambda: command(store, topology)))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(walls), statistics.median(processors)


def variants(topology: Path, folder: Path) -> Iterator[Path]:
    """Give copies of *topology* in *folder*, each with one line that differs from all others, which both images see."""
    text, first = topology.read_text(), 1280 + time.time_ns() % 100
    for number in range(FURTHER):
        copy = folder / str(number) / "topology.toml"
        copy.parent.mkdir(parents=True)
        for suffix in (".lock", ".public.toml"):
            shutil.copy(topology.with_suffix(suffix), copy.with_suffix(suffix))
        copy.write_text(re.sub(r"^mtu = \d+", f"mtu = {first + number}", text, flags=re.MULTILINE))
        yield copy


def changed(store: Store, topology: Path, work: Path) -> float:
    """Return the median seconds of three builds, each after another change of one line that both images see."""
    taken, place = [], work / "topology.toml"
    for number, copy in zip(range(3), variants(topology, work / "variants"), strict=False):
        for suffix in (".toml", ".lock", ".public.toml"):
            shutil.copy(copy.with_suffix(suffix), place.with_suffix(suffix))
        taken.append(seconds(lambda: command(store, place)))
        say(f"  {number}: {taken[-1]:.1f} s")
    return statistics.median(taken)


def further(store: Store, topology: Path, work: Path) -> tuple[list[float], list[int]]:
    """Return seconds and growth of the store, in bytes, for each of FURTHER topologies on the same base.

    The disks that are put together, of which the store keeps the last few, are no part of the growth.
    """
    taken, grown = [], []
    for copy in variants(topology, work / "further"):
        before = kept(store)
        taken.append(seconds(lambda copy=copy: command(store, copy)))  # type: ignore[misc]
        grown.append(kept(store) - before)
    return taken, grown


def kept(store: Store) -> int:
    """Return what *store* takes but for whole disks, in bytes."""
    disks = sum(size_of(path) for path in store.root.glob("outputs/*-image"))
    return size_of(store.root) - disks


def floor(store: Store, built: Built, plan: Plan, work: Path) -> float:
    """Return the seconds that mkfs.erofs and veritysetup take over both package trees."""
    taken = 0.0
    for role, role_plan in plan.roles.items():
        tree, out = work / f"{role}-tree", work / f"{role}-floor"
        base = store.path(role_plan.base)
        extract = ["fsck.erofs", f"--extract={tree}", str(base / "root.erofs")]
        run(built.tools.argv(extract, read=[base], write=[work]))
        make = f"mkfs.erofs --quiet {' '.join(COMPRESSION)} {out} {tree} && veritysetup format {out} {out}.verity"
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


def main(topology: Path, parts: Sequence[str]) -> None:
    """Measure *parts*, and print a table in Markdown."""
    store, plan = the_store(), Files(topology).plan()
    built = build(store, plan, sources_of_environment())
    command(store, topology)  # so that it is noted
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory(dir=store.root) as folder:
        for part in parts:
            say(part)
            (work := Path(folder) / part).mkdir()
            rows += PARTS[part](store, built, plan, topology, work)
    for role, image in built.images.items():
        allocated = image.path.stat().st_blocks * 512
        sizes = f"{image.size_bytes / MIB:,.0f} MiB raw, {allocated / MIB:,.0f} MiB on disk"
        rows.append((f"{role} image", sizes, f"{compressed(image.path) / MIB:,.0f} MiB as zstd -3"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {' '.join(COMPRESSION)}\n")
    print("| what | here | against |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


Rows = list[tuple[str, str, str]]


def cold_rows(store: Store, built: Built, plan: Plan, topology: Path, work: Path) -> Rows:
    """Return what a build from nothing takes."""
    whole = cold(store, topology, work)
    other = peer(store, plan, work)
    return [("cold build of both images, packages fetched", f"{whole:.0f} s", versus(whole, other, "mmdebstrap"))]


def idle_rows(store: Store, built: Built, plan: Plan, topology: Path, work: Path) -> Rows:
    """Return what a build with nothing to do takes."""
    wall, processor = idle(store, topology)
    return [("nothing changed", f"{wall:.2f} s", f"{processor:.2f} s of the processor")]


def line_rows(store: Store, built: Built, plan: Plan, topology: Path, work: Path) -> Rows:
    """Return what a change of one line takes."""
    line = changed(store, topology, work)
    least = floor(store, built, plan, work)
    against = versus(line, least, "mkfs.erofs + veritysetup of both trees")
    return [("one line changed, both images", f"{line:.1f} s", against)]


def further_rows(store: Store, built: Built, plan: Plan, topology: Path, work: Path) -> Rows:
    """Return what further topologies take."""
    taken, grown = further(store, topology, work)
    times = f"{statistics.median(taken):.1f} s each, {max(taken):.1f} at most"
    growth = f"{statistics.median(grown) / MIB:.1f} MiB more in the store each, {max(grown) / MIB:.1f} at most"
    return [(f"{FURTHER} further topologies on the same base", times, growth)]


PARTS = {"cold": cold_rows, "idle": idle_rows, "line": line_rows, "further": further_rows}


def versus(mine: float, other: float | None, name: str) -> str:
    """Return the ratio of *mine* to *other* as a cell of the table. Pure."""
    return f"{mine / other:.2f} times {name} ({other:.1f} s)" if other else f"{name} is not installed"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or tuple(PARTS))
