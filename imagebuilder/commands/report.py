"""`report`: past runs of the acceptance tests, or the page of one."""

import json
import os
import sys
import webbrowser
from argparse import ArgumentParser, Namespace
from pathlib import Path

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.commands.subject import topology_key
from imagebuilder.run import say
from imagebuilder.runs.history import JUNIT, PAGE, RECORD, History, PastRun
from imagebuilder.runs.record import Outcome, Record
from imagebuilder.runs.report import page

FILES = (JUNIT, RECORD, "proxy.console.txt", "proxy.journal.txt", "client.console.txt", "client.journal.txt")
"""Files of a run that its page leads to, as far as they are there."""


def arguments(parser: ArgumentParser) -> None:
    """Declare what `report` takes."""
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help='open the page of this run ("latest", or its name or the beginning of it)'
    )
    parser.add_argument("--all", action="store_true", help="list the runs of every topology, not only of this one")


def run(args: Namespace) -> int:
    """List past runs, or print where the page of one is, and open it on a desktop."""
    store = the_store()
    history = History(store)
    key = None if args.all else topology_key(Files(args.topology), store)
    if args.run is None:
        runs = history.all(key)
        if not runs and not args.json:
            say("there is no run yet: imagebuilder test makes one")
        print(
            json.dumps([summary(run) for run in runs], indent=2) if args.json else listing(runs), end="\n" * bool(runs)
        )
        return 0
    found = history.find(args.run, key)
    written = write_page(history, found.record, found.folder)
    if args.json:
        told = {"page": str(written), "folder": str(found.folder), "verdict": found.record.verdict}
        print(json.dumps(told | found.record.model_dump(mode="json"), indent=2))
        return 0
    print(written)
    if sys.stdout.isatty() and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(written.as_uri())
    return 0


def write_page(history: History, record: Record, folder: Path) -> Path:
    """Write the page of *record* into its *folder*, beside the runs before it, and return its path."""
    runs = history.all(record.topology_key)
    others = [run.record for run in runs if run.folder != folder]
    earlier = [each for each in others if each.started < record.started and each.deployed == record.deployed]
    target, new = folder / PAGE, folder / f"{PAGE}.new"
    new.write_text(page(record, earlier, [name for name in FILES if (folder / name).exists()]))
    new.replace(target)
    return target


def summary(run: PastRun) -> dict[str, object]:
    """Return *run* in short, for machines."""
    record = run.record
    return {
        "run": record.run,
        "verdict": record.verdict,
        "topology": record.topology,
        "started": record.started.isoformat(),
        "seconds": record.seconds,
        "outcomes": dict(record.counts),
        "images": {role: image.sha256 for role, image in record.images.items()},
        "folder": str(run.folder),
        "page": str(run.page) if run.page.exists() else None,
    }


def listing(runs: tuple[PastRun, ...]) -> str:
    """Return *runs* for people, a line each, the newest last."""
    lines = []
    for run in runs:
        record = run.record
        counts = ", ".join(f"{record.counts[outcome]} {outcome}" for outcome in Outcome if record.counts[outcome])
        lines.append(f"{record.run:21} {record.verdict:8} {record.seconds:6.0f} s  {record.topology}  {counts}")
    return "\n".join(lines)
