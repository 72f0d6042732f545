"""`lock`: resolve every input to a hash; the only step that asks the network what exists."""

import json
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import source_arguments, sources_of, the_store
from imagebuilder.fetch import fetch
from imagebuilder.lock import Lock, changes, lock_text, read_lock
from imagebuilder.resolve import resolve_in
from imagebuilder.run import say
from imagebuilder.topology import load_topology


def arguments(parser: ArgumentParser) -> None:
    """Declare what `lock` takes."""
    parser.add_argument(
        "--check", action="store_true", help="lock nothing; fetch what is locked, and name what no source has any more"
    )
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Write the lock and print what changed in it."""
    files = Files(args.topology)
    load_topology(files.topology)
    if args.check:
        return check(args, files)
    old = read_lock(files.lock) if files.lock.exists() else None
    say("asking the archives")
    with the_store().workspace() as workspace:
        new = resolve_in(workspace / "apt", sources_of(args).find_mirrors())
    lines = changes(old, new)
    if old is None or lines:
        write(files.lock, new)
    if args.json:
        print(json.dumps({"lock": str(files.lock), "packages": len(new.packages), "changes": lines}, indent=2))
    else:
        say(f"{files.lock}: {len(new.packages)} packages, {len(lines)} changed")
        print("\n".join(lines) if old else files.lock)
    return 0


def check(args: Namespace, files: Files) -> int:
    """Fetch all that is locked; raise naming what can't be had."""
    lock = read_lock(files.lock)
    fetch(the_store(), lock.packages, sources_of(args))
    say(f"{files.lock}: all {len(lock.packages)} packages are at hand")
    return 0


def write(path: Path, lock: Lock) -> None:
    """Put *lock* in place of what *path* has, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        file.write(lock_text(lock))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
