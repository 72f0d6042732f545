"""`schema`: what a topology may say."""

from argparse import ArgumentParser, Namespace

from imagebuilder.topology.schema import schema_json, schema_text


def arguments(parser: ArgumentParser) -> None:
    """It takes none but the common ones."""


def run(args: Namespace) -> int:
    """Print every table and key."""
    print(schema_json() if args.json else schema_text())
    return 0
