"""`flash`: a tested image, with its host's secrets, onto a disk of this machine."""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from imagebuilder.commands.cargo import Cargo, cargo_arguments, cargo_of
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import say
from imagebuilder.shipping import gate
from imagebuilder.shipping.disks import Disk, NoDiskError, candidates, disks, named, refusal
from imagebuilder.shipping.flash import Flashed, flash
from imagebuilder.shipping.provision import needed_bytes


def arguments(parser: ArgumentParser) -> None:
    """Declare what `flash` takes."""
    cargo_arguments(parser)
    parser.add_argument("device", nargs="?", type=Path, metavar="DEVICE", help="the disk; left out: list them")
    parser.add_argument("--yes", action="store_true", help="don't ask")


def run(args: Namespace) -> int:
    """Flash, and print what was done; without a device print the disks that could be flashed."""
    cargo = cargo_of(args)
    found, needed = disks(), needed_bytes(cargo.cleared.image)
    if args.device is None:
        print(listing(candidates(found, needed_bytes=needed), as_json=args.json))
        return ExitStatus.OK
    disk = named(args.device, found)
    if why := refusal(disk, needed_bytes=needed):
        raise NoDiskError(f"{disk.path} is not overwritten: {why}", hint=f"imagebuilder flash {args.role} lists disks")
    say(str(disk))
    if not args.yes:
        confirm(disk)
    done = flash(cargo.on_disk(disk.size_bytes), disk.path)
    shipment = gate.record(cargo.cleared, where=str(disk))
    result = {"device": str(disk.path), **asdict(done), **asdict(shipment)}
    print(json.dumps(result, indent=2, default=str) if args.json else told(cargo, disk, done))
    return ExitStatus.OK


def listing(found: tuple[Disk, ...], *, as_json: bool) -> str:
    """Return *found* for people or machines."""
    if as_json:
        return json.dumps([asdict(disk) | {"summary": disk.summary} for disk in found], indent=2, default=str)
    return "\n".join(map(str, found)) or "no disk of this machine is free and large enough"


def confirm(disk: Disk) -> None:
    """Return once the operator has typed the name of *disk*; raise ImagebuilderError for anything else."""
    if not sys.stdin.isatty():
        raise ImagebuilderError(f"{disk.path} is only overwritten when asked twice", hint="scripts say --yes")
    print(f"All that is on {disk.path} will be lost. To go on, type {disk.name}: ", end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline().strip()
    if typed not in (disk.name, str(disk.path)):
        raise ImagebuilderError(f"{typed!r} is not {disk.name!r}: nothing was written")


def told(cargo: Cargo, disk: Disk, done: Flashed) -> str:
    """Return what was done, for people."""
    image, rate = cargo.cleared.image, done.written_bytes / max(done.write_s, 1e-9) / 1e6
    return (
        f"{disk.path} is the {image.role} of generation {cargo.cleared.generation.number}: "
        f"{done.written_bytes / 2**20:,.0f} MiB written at {rate:,.0f} MB/s, "
        f"{done.cleared_bytes / 2**20:,.0f} MiB of old data cleared, all read back"
    )
