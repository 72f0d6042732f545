"""`boot`: both images on a virtual network, for a command of yours or a prompt."""

from argparse import REMAINDER, ArgumentParser, Namespace

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import new_run, source_arguments, sources_of, the_store
from imagebuilder.pipeline import build
from imagebuilder.secrets import read_secrets
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
    files, store = Files(args.topology), the_store()
    topology, public, _ = files.read()
    secrets = read_secrets(files.secrets)
    built = build(store, files.plan(), sources_of(args))
    command = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    return boot_pair(
        built.images,
        topology,
        public,
        secrets,
        built.tools,
        new_run(store),
        cache=store.root,
        from_host=args.from_host,
        command=command,
    )
