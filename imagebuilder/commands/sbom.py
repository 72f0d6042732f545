"""`sbom`: what an image consists of, and which known vulnerabilities that has."""

from argparse import ArgumentParser, Namespace

from imagebuilder.commands.sources import source_arguments
from imagebuilder.topology import Role

URGENCIES = ("low", "medium", "high")


def arguments(parser: ArgumentParser) -> None:
    """Declare what `sbom` takes."""
    parser.add_argument("role", type=Role, choices=list(Role), metavar="ROLE", help=" or ".join(Role))
    parser.add_argument("--generation", type=int, metavar="N", help="of generation N (default: of the latest)")
    parser.add_argument(
        "--vulnerabilities",
        metavar="FILE_OR_URL",
        help="Debian's security data in debsecan's format: list what is known of these packages instead; with --json "
        "it goes into the bill of materials",
    )
    parser.add_argument(
        "--fail-on",
        choices=URGENCIES,
        help="end with status 1 when a vulnerability is of this urgency or more; one not judged yet counts as low",
    )
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Print the bill of materials, or the vulnerabilities."""
    # Here, as its libraries take longer to load than most commands to run.
    from imagebuilder.commands.bill import print_bill

    return print_bill(args)
