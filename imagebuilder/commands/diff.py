"""`diff`: what differs between two builds, from the topology down to the partitions."""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from imagebuilder.commands.compared import NOW, UnknownBuildError, named_build
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.difference import Change, Difference, FileChange, difference
from imagebuilder.generations import Generations

COLOURS = {"+": "32", "-": "31", "@": "36"}
"""SGR numbers by the first character of a line (ECMA-48)."""


def arguments(parser: ArgumentParser) -> None:
    """Declare what `diff` takes."""
    side = f'a generation\'s number, a topology file, or "{NOW}": what would be built'
    parser.add_argument("old", nargs="?", metavar="A", help=f"{side} (default: the generation before the latest)")
    parser.add_argument("new", nargs="?", metavar="B", help="likewise (default: the latest generation)")


def run(args: Namespace) -> int:
    """Print what differs."""
    files, store = Files(args.topology), the_store()
    old, new = sides(args.old, args.new, Generations(store, files.topology))
    found = difference(named_build(old, files, store), named_build(new, files, store))
    if args.json:
        print(json.dumps(facts(found), indent=2))
    else:
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n".join(painted(line) if coloured else line for line in lines(found)))
    return 0


def sides(old: str | None, new: str | None, generations: Generations) -> tuple[str, str]:
    """Return the names of both sides; what the operator left out are the last two generations."""
    if old is not None and new is not None:
        return old, new
    numbers = [str(generation.number) for generation in generations.all()]
    if not numbers or (old is None and len(numbers) < 2):
        count = "is only one generation" if numbers else "are no generations"
        raise UnknownBuildError(
            f"there {count} of {generations.topology_path} yet",
            hint=f"imagebuilder diff {numbers[0]} {NOW}" if numbers else "imagebuilder build makes the first",
        )
    return old or numbers[-2], numbers[-1]


def facts(found: Difference) -> dict[str, object]:
    """Return *found* for machines."""
    return {"differs": bool(found), **asdict(found)}


def lines(found: Difference) -> Iterator[str]:
    """Yield *found* for people."""
    yield f"{found.old} → {found.new}"
    if not found:
        yield "nothing differs"
    yield from _group("topology", found.topology)
    for name, changes in found.packages.items():
        yield from _group(f"packages of {name}", changes)
    for role, word_changes in found.command_line.items():
        yield from _group(f"kernel command line of {role}", word_changes)
    for role, part_changes in found.partitions.items():
        yield from _group(f"partitions of {role}", part_changes)
    for role, size_changes in found.sizes.items():
        yield from _group(f"sizes of {role}", size_changes)
    for role, image_changes in found.images.items():
        yield from _group(f"image of {role}", image_changes)
    yield from _group("steps", found.steps)
    for role, file_changes in found.files.items():
        yield from _files(role, file_changes)
    if found.unbuilt:
        yield f"\nnot built, so no disks were compared: {', '.join(found.unbuilt)}"


def _group(title: str, changes: tuple[Change, ...]) -> Iterator[str]:
    if changes:
        yield f"\n{title}"
        yield from map(str, changes)


def _files(role: str, changes: tuple[FileChange, ...]) -> Iterator[str]:
    for change in changes:
        yield f"\n{role}: /{change.path} ({change.change})"
        yield from change.diff


def painted(line: str) -> str:
    """Return *line* in the colour of its kind."""
    colour = COLOURS.get(line[:1])
    return f"\x1b[{colour}m{line}\x1b[m" if colour else line


def summary(found: Difference) -> Mapping[str, int]:
    """Return how many things differ per level, only what is not zero."""
    counts = {
        "topology values": len(found.topology),
        "packages": sum(map(len, found.packages.values())),
        "files": sum(map(len, found.files.values())),
        "words of kernel command lines": sum(map(len, found.command_line.values())),
        "steps": len(found.steps),
    }
    return {name: count for name, count in counts.items() if count}
