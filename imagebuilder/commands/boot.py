"""`boot`: both images on a virtual network, for a command of yours or a prompt."""

from argparse import REMAINDER, ArgumentParser, Namespace

from imagebuilder.commands.sources import source_arguments
from imagebuilder.commands.subject import subject_of
from imagebuilder.vm.runs import OUTSIDE, boot_pair


def arguments(parser: ArgumentParser) -> None:
    """Declare what `boot` takes."""
    parser.add_argument(
        "--from",
        dest="from_host",
        choices=OUTSIDE,
        default=OUTSIDE[0],
        help="the outside host that the command runs on",
    )
    source_arguments(parser)
    parser.add_argument(
        "argv", nargs=REMAINDER, metavar="-- COMMAND…", help="run this once mail flows; without it, a prompt"
    )


def run(args: Namespace) -> int:
    """Boot the pair and return the command's exit status, or 0 after the prompt."""
    command = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    subject, _ = subject_of(args)
    return boot_pair(subject, from_host=args.from_host, command=command)
