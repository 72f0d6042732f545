"""What `test --deployed` starts from: a generation that was shipped, and the way to the hosts that run it."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from imagebuilder.commands.cargo import generation_of
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.commands.subject import origin_of
from imagebuilder.runs.history import History
from imagebuilder.shipping.gate import intact, tools_tree
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm.acceptance import WrongTestsError
from imagebuilder.vm.deployed import Deployment
from imagebuilder.vm.recording import Origin
from imagebuilder.vm.waiting import NATURAL, Patience


def deployed_arguments(parser: ArgumentParser) -> None:
    """Declare what `test --deployed` takes beside what `test` does."""
    parser.add_argument(
        "--deployed",
        action="store_true",
        help="boot nothing: run the tests that disturb nobody against the hosts that the images were shipped to",
    )
    parser.add_argument("--identity", type=Path, metavar="FILE", help="with --deployed: private key to log in with")
    parser.add_argument(
        "--as",
        dest="domain",
        metavar="DOMAIN",
        help="with --deployed: mail domain whose server mx.DOMAIN this machine is, so that there is a stranger",
    )
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="with --as: its key and certificate, PEM; left out: a new one"
    )
    parser.add_argument(
        "--patience",
        type=_factor,
        metavar="FACTOR",
        help="with --deployed: wait that many times as long for everything, as slow hosts need it",
    )


def require_sense(args: Namespace) -> None:
    """Raise WrongTestsError when options of *args* have nothing to say to each other."""
    if args.deployed:
        alone = {"--jobs": args.jobs > 1, "--until-failure": args.until_failure, "--pdb": args.pdb, "--keep": args.keep}
        if wrong := [name for name, given in alone.items() if given]:
            raise WrongTestsError(f"{', '.join(wrong)}: that is for machines of the bed, and these are deployed hosts")
        if args.certificate and not args.domain:
            raise WrongTestsError("--certificate is for a mail server, and there is none", hint="--as DOMAIN")
        return
    given = ("--identity", args.identity), ("--as", args.domain), ("--certificate", args.certificate)
    if wrong := [name for name, value in (*given, ("--patience", args.patience)) if value]:
        raise WrongTestsError(f"{', '.join(wrong)}: that is for deployed hosts", hint="add --deployed")


def deployment_of(args: Namespace) -> tuple[Deployment, Origin]:
    """Return what was shipped, where it runs, and which files it comes from; its reports get a new folder."""
    store, files = the_store(), Files(args.topology)
    generation = generation_of(args, store)
    read = Files(generation.topology)
    topology, public, _ = read.read()
    deployment = Deployment(
        images={role: intact(store, generation, role) for role in Role},
        topology=topology,
        public=public,
        tools=Tools(tools_tree(store, generation)),
        folder=History(store).new_run(),
        identity=args.identity,
        domain=args.domain,
        certificate=args.certificate,
        patience=Patience(args.patience) if args.patience else NATURAL,
    )
    return deployment, origin_of(files, read, generation, store)


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= 100:
        raise ArgumentTypeError(f"{text!r} is no number from 1 to 100")
    return factor
