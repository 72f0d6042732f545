"""`check`: every problem of the topology at once."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from imagebuilder.errors import ExitStatus, WrongInputError
from imagebuilder.run import say
from imagebuilder.topology import load_topology


def arguments(parser: ArgumentParser) -> None:
    """It takes none but the common ones."""


def run(args: Namespace) -> int:
    """Say that all is well, or raise; with --json print the list of problems instead."""
    try:
        load_topology(args.topology)
    except WrongInputError as error:
        if not args.json:
            raise
        print(json.dumps([asdict(problem) for problem in error.problems], indent=2))
        return ExitStatus.WRONG_INPUT
    if args.json:
        print("[]")
    else:
        say(f"{args.topology}: no problems")
    return ExitStatus.OK
