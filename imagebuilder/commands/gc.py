"""`gc`: remove what no generation needs."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from imagebuilder.commands.sources import the_store
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.generations import Generation, every_topology
from imagebuilder.lock.model import parse_lock
from imagebuilder.run import say
from imagebuilder.store.folder import Store, Used
from imagebuilder.store.upkeep import Item, collect


def arguments(parser: ArgumentParser) -> None:
    """Declare what `gc` takes."""
    parser.add_argument(
        "--keep",
        type=_number,
        metavar="N",
        help="keep what the newest N generations of each topology need (default: what all need)",
    )
    parser.add_argument("--dry-run", action="store_true", help="remove nothing, only say what would go")


def run(args: Namespace) -> int:
    """Print what goes, with its size."""
    store = the_store()
    # Asked while nobody can begin to build.
    items = collect(store, lambda: needed(store, keep=args.keep), dry_run=args.dry_run)
    if args.json:
        listed = [{"name": item.name, "path": str(item.path), "size_bytes": item.size} for item in items]
        print(json.dumps({"removed": not args.dry_run, "items": listed}, indent=2))
        return ExitStatus.OK
    if items:
        print("\n".join(lines(items)))
    total = sum(item.size for item in items)
    say(f"{mib(total)} in {len(items)} {'would go' if args.dry_run else 'removed'}")
    return ExitStatus.OK


def needed(store: Store, *, keep: int | None) -> Used:
    """Return what the newest *keep* generations of each topology need (all when None): outputs, and locked files."""
    topologies = list(every_topology(store))
    if not topologies and keep is None:
        raise ImagebuilderError(
            f"the store {store.root} has no generation, so that everything in it would go",
            hint="imagebuilder build makes one; to empty the store nevertheless: imagebuilder gc --keep 0",
        )
    kept = [each for oldest_first in topologies for each in oldest_first[::-1][:keep]]
    return Used(
        frozenset(name for each in kept for name in each.outputs),
        frozenset(sha256 for each in kept for sha256 in locked(each)),
    )


def locked(generation: Generation) -> frozenset[str]:
    """Return the SHA-256 of the files that building *generation* again takes."""
    lock = parse_lock(generation.input("topology.lock").decode(), source=f"the lock of generation {generation.number}")
    return frozenset(package.sha256 for package in lock.packages)


def lines(items: tuple[Item, ...]) -> list[str]:
    """Return *items* for people, the files in one line."""
    outputs = [item for item in items if item.path.parent.name == "outputs"]
    files = [item for item in items if item.path.parent.name == "files"]
    told = [f"{mib(item.size):>10}  {item.name}" for item in sorted(outputs, key=lambda item: -item.size)]
    if files:
        told.append(f"{mib(sum(item.size for item in files)):>10}  {len(files)} fetched files")
    return told


def mib(size: int) -> str:
    """Return *size*, in bytes, for people."""
    return f"{size / 2**20:,.0f} MiB"


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no number of generations")
    return int(text)
