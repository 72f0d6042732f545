"""`init`: a commented topology, and the keys it needs."""

import json
from argparse import ArgumentParser, Namespace

from imagebuilder.init import init


def arguments(parser: ArgumentParser) -> None:
    """Declare what `init` takes."""
    recipient_arguments(parser)


def recipient_arguments(parser: ArgumentParser) -> None:
    """Declare who the secrets are encrypted to."""
    parser.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="KEY",
        help="encrypt the secrets to this public SSH or age key (left out: the administrator's SSH keys)",
    )
    parser.add_argument("--plain", action="store_true", help="keep the secrets in plain text, mode 0600")


def run(args: Namespace) -> int:
    """Write what is missing and print the paths written."""
    wrote = init(args.topology, recipients=args.recipient, plain=args.plain)
    if args.json:
        print(json.dumps({"wrote": [str(path) for path in wrote]}, indent=2))
    else:
        for path in wrote:
            print(path)
    return 0
