"""Measure flash and upload against plain dd over the same path: ``python -m tests.bench.shipping TOPOLOGY [ROUNDS]``.

The disk is a loop device; the path of an upload is ssh over loopback to a rescue system made of the proxy's packages,
through a road that counts. dd writes all of the image and flushes; we write, flush, and are timed with and without the
reading back that dd doesn't do. Both take turns, so that whatever else the machine does weighs on both. Needs root.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.pipeline import build
from imagebuilder.run import run, say
from imagebuilder.secrets.keys import credentials
from imagebuilder.secrets.vault import read_secrets
from imagebuilder.shipping.flash import flash
from imagebuilder.shipping.provision import Provisioned, secrets_filesystem
from imagebuilder.shipping.remote import Address, connected, ssh_environment
from imagebuilder.shipping.transfer import upload
from imagebuilder.topology import Role
from tests.accept.rescue_room import Road, loop, rescue

ROUNDS = 3
LEAST_RATE, MOST_BYTES = 0.9, 1.02
BLOCK = "4M"


@dataclass(frozen=True)
class Figures:
    """What one image took; rates are of the whole image, holes and all, in MB/s, each the median of its rounds."""

    image_mib: float
    data_mib: float
    dd_rate: float
    """dd to a disk of this machine."""
    flash_rate: float
    flash_ratio: float
    """Writing, by dd."""
    flash_ratio_read_back: float
    """Writing and reading back, by dd that only writes."""
    far_dd_rate: float
    """dd to a disk of the rescue system, through ssh."""
    upload_rate: float
    upload_ratio: float
    upload_ratio_read_back: float
    sent_bytes: int
    """On the road: compressed, encrypted, and with all that ssh says."""
    zstd_bytes: int
    """Of the same bytes by zstd at level 3."""
    sent_ratio: float


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """Yield a disk of *size* bytes that is full of something else, as disks are."""
    path = folder / "disk"
    with path.open("wb") as file:
        for _ in range(-(-size // 2**24)):
            file.write(b"what was here before\n" * (2**24 // 21))
        file.truncate(size)
    with loop(path) as device:
        yield device
    path.unlink()


def zstd_bytes(provisioned: Provisioned, tools_argv: Callable[[list[str]], list[str]], whole: Path) -> int:
    """Return how long zstd's own output for *provisioned* is; leave its bytes at *whole*."""
    with whole.open("wb") as file:
        file.truncate(provisioned.size_bytes)
        for region in provisioned.regions():
            file.seek(region.offset)
            file.write(region.data)
    return len(run(tools_argv(["zstd", "-q", "-3", "-c", str(whole)])).stdout)


@dataclass
class Taken:
    """Seconds of each round, and bytes on the road."""

    dd: list[float] = field(default_factory=list)
    flash: list[float] = field(default_factory=list)
    flash_read_back: list[float] = field(default_factory=list)
    far_dd: list[float] = field(default_factory=list)
    upload: list[float] = field(default_factory=list)
    upload_read_back: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


def one_round(provisioned: Provisioned, whole: Path, work: Path, road: Road, address: Address, taken: Taken) -> None:
    """Write the same image in all four ways, each to a disk of its own."""
    size = provisioned.size_bytes
    with disk(work, size) as device:
        dd = ["dd", f"if={whole}", f"of={device}", f"bs={BLOCK}", "conv=fsync"]
        taken.dd.append(timed(lambda: run(dd)))
    with disk(work, size) as device:
        done = flash(provisioned, device)
        taken.flash.append(done.write_s)
        taken.flash_read_back.append(done.write_s + done.read_s)
    with disk(work, size) as device, whole.open("rb") as source:
        argv = address.argv(f"dd of={device} bs={BLOCK} iflag=fullblock conv=fsync")
        env = {**ssh_environment(), "PATH": os.environ["PATH"]}
        taken.far_dd.append(timed(lambda: subprocess.run(argv, stdin=source, check=True, capture_output=True, env=env)))
    with disk(work, size) as device:
        before = road.carried
        tally = upload(provisioned, lambda: connected(address), device, who="bench")
        taken.sent.append(road.carried - before)
        taken.upload.append(tally.write_s)
        taken.upload_read_back.append(tally.write_s + tally.read_s)


def measured(topology: Path, role: Role, work: Path, rounds: int) -> Figures:
    """Return what shipping the image of *role* takes."""
    files, store = Files(topology), the_store()
    plan = files.plan()
    built = build(store, plan, sources_of_environment())
    image, tools = built.images[role], built.tools
    given = credentials(read_secrets(files.secrets), files.read()[0], role)
    provisioned = Provisioned(image, secrets_filesystem(tools, given, limit_bytes=image.secrets_size))
    whole, tree, taken = work / "whole", work / "tree", Taken()
    packed = zstd_bytes(provisioned, lambda argv: tools.argv(argv, read=[work]), whole)
    tree.mkdir()
    base = store.path(plan.roles[Role.PROXY].base)
    extract = ["fsck.erofs", f"--extract={tree}", "--overwrite", "--preserve", str(base / "root.erofs")]
    run(tools.argv(extract, read=[base], write=[tree]))
    with rescue(work / "rescue", tree, tools.tree) as host, Road(host.port) as road:
        for _ in range(rounds):
            one_round(provisioned, whole, work, road, host.over(road), taken)
            say(f"seconds and bytes so far: {asdict(taken)}")
    return figures(provisioned, taken, packed)


def figures(provisioned: Provisioned, taken: Taken, packed: int) -> Figures:
    """Return what *taken* comes to."""

    def rate(seconds: list[float]) -> float:
        return provisioned.size_bytes / statistics.median(seconds) / 1e6

    def ratio(peer: list[float], ours: list[float]) -> float:
        return statistics.median(one / other for one, other in zip(peer, ours, strict=True))

    return Figures(
        image_mib=provisioned.size_bytes / 2**20,
        data_mib=provisioned.data_bytes() / 2**20,
        dd_rate=rate(taken.dd),
        flash_rate=rate(taken.flash),
        flash_ratio=ratio(taken.dd, taken.flash),
        flash_ratio_read_back=ratio(taken.dd, taken.flash_read_back),
        far_dd_rate=rate(taken.far_dd),
        upload_rate=rate(taken.upload),
        upload_ratio=ratio(taken.far_dd, taken.upload),
        upload_ratio_read_back=ratio(taken.far_dd, taken.upload_read_back),
        sent_bytes=max(taken.sent),
        zstd_bytes=packed,
        sent_ratio=max(taken.sent) / packed,
    )


def main(topology: Path, rounds: int = ROUNDS) -> int:
    """Print the figures of the proxy's image; fail when one is out of its bounds."""
    with tempfile.TemporaryDirectory() as folder:
        found = measured(topology, Role.PROXY, Path(folder), rounds)
    print(json.dumps(asdict(found), indent=2))
    bad = [name for name in ("flash_ratio", "upload_ratio") if getattr(found, name) < LEAST_RATE]
    bad += ["sent_ratio"] if found.sent_ratio > MOST_BYTES else []
    for name in bad:
        say(f"out of bounds: {name} is {getattr(found, name):.3f}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
