"""`lock`: resolve every input to a hash; the only step that asks the network what exists."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from imagebuilder.availability import availability, gone, rotting
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import source_arguments, sources_of, the_store
from imagebuilder.errors import ExitStatus
from imagebuilder.fetch import Sources, fetch
from imagebuilder.lock.debian import Apt
from imagebuilder.lock.model import Change, Closure, Lock, LockedPackage, changes, lock_text, read_lock
from imagebuilder.lock.overrides import read_overrides
from imagebuilder.lock.resolve import ALL, Request, resolve
from imagebuilder.lock.wanted import wanted_packages
from imagebuilder.run import run as run_program
from imagebuilder.run import say
from imagebuilder.store.folder import Store
from imagebuilder.topology import load_topology
from imagebuilder.writing import write_whole


def arguments(parser: ArgumentParser) -> None:
    """Declare what `lock` takes."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--update",
        nargs="*",
        metavar="PACKAGE",
        help="take the newest versions of these packages and what they force to move; of everything when none is named",
    )
    what.add_argument(
        "--check", action="store_true", help="lock nothing; say which locked files each source no longer has"
    )
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Write the lock and print what changed in it."""
    files = Files(args.topology)
    load_topology(files.topology)
    if args.check:
        return check(args, files)
    old = read_lock(files.lock) if files.lock.exists() else None
    overrides = read_overrides(files.overrides)
    moving = frozenset[str](args.update or ()) if args.update != [] else ALL
    request = Request(wanted_packages(), old, moving, overrides, files.overrides.name)
    store, sources = the_store(), sources_of(args)
    say("asking the archives")
    with store.workspace() as workspace:
        new = resolve(Apt(workspace / "apt", sources.find_mirrors()), request, controls(store, sources, old))
    if new != old:
        write_whole(files.lock, lock_text(new).encode())
    found = changes(old, new)
    if args.json:
        listed = [asdict(change) for change in found]
        print(json.dumps({"lock": str(files.lock), "packages": len(new.packages), "changes": listed}, indent=2))
    else:
        report(files.lock, old, new, found)
    return ExitStatus.OK


def controls(store: Store, sources: Sources, old: Lock | None) -> Callable[[Sequence[LockedPackage]], list[str]]:
    """Return what gives the control stanzas of locked packages that the archives may not list any more."""

    def read(packages: Sequence[LockedPackage]) -> list[str]:
        fetch(store, packages, sources, states=old.states if old else ())
        files = [store.file(package.sha256) for package in packages]
        return [run_program(["dpkg-deb", "--field", str(file)]).text.rstrip() for file in files]

    return read


def report(path: Path, old: Lock | None, new: Lock, found: Sequence[Change]) -> None:
    """Print a line per change, and say how many each closure has."""
    if old is None:
        say(f"{path}: {len(new.packages)} packages")
        print(path)
        return
    for closure in Closure:
        here = [change for change in found if closure in change.closures]
        came, went = sum(c.old is None for c in here), sum(c.new is None for c in here)
        if here:
            fixes = sum(change.security for change in here)
            moved = len(here) - came - went
            say(f"{closure}: {came} added, {went} removed, {moved} moved; {fixes} of these from the security archive")
    say(
        f"{path}: {len(new.packages)} packages, "
        + (f"{len({c.name for c in found})} changed" if found else "no change" if old == new else "only notes changed")
    )
    if found:
        print("\n".join(map(str, found)))


def check(args: Namespace, files: Files) -> int:
    """Print which locked files each source lacks; fail when one is to be had nowhere."""
    lock, store = read_lock(files.lock), the_store()
    say(f"asking each source for {len(lock.packages)} files")
    with store.workspace() as workspace:
        found = availability(store, lock, sources_of(args), workspace)
    lost = gone(lock, found)
    if args.json:
        sources = [{"source": a.source, "error": a.error, "missing": [str(p) for p in a.missing(lock)]} for a in found]
        told = {"files": len(lock.packages), "sources": sources, "gone": [str(package) for package in lost]}
        print(json.dumps(told, indent=2))
    else:
        print("\n".join([*map(str, found), *rotting(lock, found)]))
    if lost:
        names = " ".join(package.name for package in lost)
        say(f"hint: lock what the archive has now: imagebuilder lock --update {names}")
    return ExitStatus.FAILED if lost else ExitStatus.OK
