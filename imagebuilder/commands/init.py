"""`init`: a commented topology, and the keys it needs."""

from argparse import ArgumentParser, Namespace

from imagebuilder.init import init


def arguments(parser: ArgumentParser) -> None:
    """It takes none but the common ones."""


def run(args: Namespace) -> int:
    """Write what is missing and print the paths written."""
    for path in init(args.topology):
        print(path)
    return 0
