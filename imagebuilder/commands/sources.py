"""Arguments that several commands share: where locked files come from, and where things are kept."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from imagebuilder.store.place import default_store

# What understands sources is imported when it is needed: `build` mostly finds out without it that nothing is to do.
if TYPE_CHECKING:
    from imagebuilder.fetch import Sources
    from imagebuilder.store.folder import Store
    from imagebuilder.store.substituter import Substituter


def source_arguments(parser: ArgumentParser) -> None:
    """Declare where locked files may come from."""
    parser.add_argument(
        "--substituter",
        action="append",
        type=substituter,
        default=[],
        metavar="FOLDER|URL",
        help="ask this for locked files and outputs first (also IMAGEBUILDER_SUBSTITUTERS, separated by ':')",
    )
    parser.add_argument(
        "--trusted-keys",
        type=Path,
        metavar="FILE",
        help="take outputs that one of these public keys signed (OpenSSH format; also IMAGEBUILDER_TRUSTED_KEYS)",
    )
    parser.add_argument(
        "--snapshot",
        metavar="URL",
        help="archive of past archives, asked for what the mirrors have dropped (also IMAGEBUILDER_SNAPSHOT)",
    )


def substituter(place: str) -> "Substituter":
    """Return the substituter at *place*, a folder or a URL."""
    from imagebuilder.store.substituter import Substituter

    return Substituter(place)


def sources_of(args: Namespace) -> "Sources":
    """Return the sources that the arguments and the environment name."""
    from imagebuilder.fetch import Sources, substituters_in
    from imagebuilder.lock.debian import mirrors
    from imagebuilder.statements.signing import configured_trusted_keys

    snapshot = args.snapshot or os.environ.get("IMAGEBUILDER_SNAPSHOT") or None
    substituters = (*args.substituter, *substituters_in())
    return Sources(mirrors, substituters, snapshot, configured_trusted_keys(args.trusted_keys))


def sources_of_environment() -> "Sources":
    """Return the sources that the environment and this machine name."""
    return sources_of(Namespace(snapshot=None, substituter=[], trusted_keys=None))


def the_store() -> "Store":
    """Return the store that the environment names."""
    from imagebuilder.store.folder import Store

    return Store(default_store())
