"""Arguments that several commands share: where locked files come from, and where things are kept."""

import contextlib
import os
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from pathlib import Path

from imagebuilder.debian import mirrors
from imagebuilder.fetch import Sources, substituters_in
from imagebuilder.store import Store, default_store


def source_arguments(parser: ArgumentParser) -> None:
    """Declare where locked files may come from."""
    parser.add_argument(
        "--substituter",
        action="append",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="look up locked files by hash in this folder too (also IMAGEBUILDER_SUBSTITUTERS, separated by ':')",
    )
    parser.add_argument(
        "--snapshot",
        metavar="URL",
        help="archive of past archives, asked for what the mirrors have dropped (also IMAGEBUILDER_SNAPSHOT)",
    )


def sources_of(args: Namespace) -> Sources:
    """Return the sources that the arguments and the environment name."""
    snapshot = args.snapshot or os.environ.get("IMAGEBUILDER_SNAPSHOT") or None
    return Sources(mirrors, (*args.substituter, *substituters_in()), snapshot)


def sources_of_environment() -> Sources:
    """Return the sources that the environment and this machine name."""
    return Sources(mirrors, substituters_in(), os.environ.get("IMAGEBUILDER_SNAPSHOT") or None)


def the_store() -> Store:
    """Return the store that the environment names."""
    return Store(default_store())


def new_run(store: Store) -> Path:
    """Return a new folder for the reports of a run, named by its time (UTC)."""
    runs = store.root / "runs"
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    for number in range(100):
        folder = runs / (f"{name}.{number}" if number else name)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError(name)
