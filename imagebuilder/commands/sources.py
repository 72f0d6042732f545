"""Arguments that several commands share: where locked files come from, and where things are kept."""

from argparse import ArgumentParser, Namespace
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


def sources_of(args: Namespace) -> Sources:
    """Return the sources that the arguments and the environment name."""
    return Sources(mirrors, (*args.substituter, *substituters_in()))


def the_store() -> Store:
    """Return the store that the environment names."""
    return Store(default_store())
