"""`store`: look after what is kept, and share it."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.fetch import MissingFilesError, Sources, fetch
from imagebuilder.generations import damage
from imagebuilder.lock.model import LockedPackage
from imagebuilder.plan import Derivation, Plan
from imagebuilder.run import say
from imagebuilder.statements.signing import SIGNING_KEY_VARIABLE, configured_signing_key, configured_trusted_keys
from imagebuilder.store.folder import Store
from imagebuilder.store.sharing import offer, offer_files, take
from imagebuilder.store.substituter import Substituter
from imagebuilder.store.upkeep import discard, inspect


class WrongArgumentsError(ImagebuilderError):
    """The arguments don't fit each other."""

    status = ExitStatus.WRONG_INPUT


def arguments(parser: ArgumentParser) -> None:
    """Declare what `store` takes."""
    parser.add_argument(
        "action",
        choices=["verify", "push", "pull"],
        help="verify: hash everything again, and name what is damaged; "
        "push, pull: bring what the topology's build consists of to a substituter, or from one",
    )
    parser.add_argument("url", nargs="?", type=Substituter, metavar="FOLDER|URL", help="push, pull: the substituter")
    parser.add_argument("--remove", action="store_true", help="verify: remove what is damaged, so that it is made anew")
    parser.add_argument("--files-only", action="store_true", help="push, pull: the locked files, no outputs")
    parser.add_argument(
        "--sign-with",
        type=Path,
        metavar="FILE",
        help=f"push: private OpenSSH key that signs the outputs (also {SIGNING_KEY_VARIABLE})",
    )
    parser.add_argument(
        "--trusted-keys",
        type=Path,
        metavar="FILE",
        help="pull: public OpenSSH keys, one of which must have signed an output (also IMAGEBUILDER_TRUSTED_KEYS)",
    )


def run(args: Namespace) -> int:
    """Do what is asked for, and print what came of it."""
    if (args.url is None) != (args.action == "verify"):
        wants = "takes no folder or URL" if args.url else "wants a folder or a URL"
        raise WrongArgumentsError(f"store {args.action} {wants}", hint=f"imagebuilder store {args.action} --help")
    return int({"verify": verify, "push": push, "pull": pull}[args.action](args))


def verify(args: Namespace) -> ExitStatus:
    """Print what is damaged; fail when something is and stays."""
    store = the_store()
    say(f"hashing everything in {store.root}")
    found, lost = inspect(store), tuple(damage(store))
    if args.remove:
        discard(store, found.damaged)
    if args.json:
        told = {"files": found.files, "outputs": found.outputs, "unrecorded": found.unrecorded, "removed": args.remove}
        told["damaged"] = [{"path": str(one.path), "reason": one.reason} for one in found.damaged]
        told["generations"] = [{"path": str(folder), "reason": said} for folder, said in lost]
        print(json.dumps(told, indent=2))
    elif found.damaged or lost:
        print("\n".join([*map(str, found.damaged), *(f"{folder}: {said}" for folder, said in lost)]))
    for name in found.unrecorded:
        say(f"{name}: made by an earlier version, which recorded no digests")
    say(f"{found.files} files and {found.outputs} outputs: {len(found.damaged)} damaged")
    if found.damaged and not args.remove:
        say("hint: remove what is damaged, it will be fetched or built again: imagebuilder store verify --remove")
    if lost:
        say("hint: what a damaged generation was can't be made anew: remove its folder, and build to have it recorded")
    return ExitStatus.FAILED if lost or (found.damaged and not args.remove) else ExitStatus.OK


def push(args: Namespace) -> ExitStatus:
    """Bring what the store has of the topology's build to a substituter; print the outputs that were brought."""
    store, plan = the_store(), Files(args.topology).plan()
    key = configured_signing_key(args.sign_with)
    if key is None and not args.files_only:
        raise WrongArgumentsError(
            "outputs need a signature, or nobody would use them, and no key is named",
            hint=f"name one by --sign-with or {SIGNING_KEY_VARIABLE}, or push the locked files alone by --files-only",
        )
    outputs: list[Derivation] = []
    if key and not args.files_only:
        outputs, there = offer(store, _shared(plan), args.url, key)
        say(f"{len(outputs)} outputs pushed to {args.url}, {len(there)} were there")
    files = offer_files(store, plan.lock.packages, args.url)
    say(f"{files} files pushed to {args.url}")
    _print(args, outputs, files)
    return ExitStatus.OK


def pull(args: Namespace) -> ExitStatus:
    """Bring what a substituter has of the topology's build to the store; print the outputs that came."""
    if args.url.folder and not args.url.folder.is_dir():
        raise WrongArgumentsError(f"there is no folder {args.url}")
    store, plan = the_store(), Files(args.topology).plan()
    keys = configured_trusted_keys(args.trusted_keys)
    missing = [] if args.files_only else [step for step in _shared(plan) if not store.has(step)]
    substituters = [args.url]
    outputs = [step for step in missing if take(store, step, substituters, keys)]
    wanted = [package for package in plan.lock.packages if not store.has_file(package.sha256)]
    lacking = _pull_files(store, wanted, args.url)
    files = len(wanted) - lacking
    say(f"{len(outputs)} outputs and {files} files pulled from {args.url}")
    if left := [step.name for step in missing if step not in outputs]:
        say(f"not pulled: {', '.join(left)}")
    _print(args, outputs, files)
    # Who has the outputs needs no file; mkosi's own is in no archive, for one.
    return ExitStatus.FAILED if left or (args.files_only and lacking) else ExitStatus.OK


def _shared(plan: Plan) -> tuple[Derivation, ...]:
    return tuple(step for step in plan.steps if step not in plan.images)


def _pull_files(store: Store, wanted: Sequence[LockedPackage], url: Substituter) -> int:
    """Bring *wanted* from *url*, and return how many it lacks."""
    try:
        fetch(store, wanted, Sources(dict, (url,)))
    except MissingFilesError as error:
        say(f"{len(error.packages)} of the locked files are not in {url}")
        return len(error.packages)
    return 0


def _print(args: Namespace, outputs: Sequence[Derivation], files: int) -> None:
    if args.json:
        print(json.dumps({"outputs": [str(step) for step in outputs], "files": files}, indent=2))
    elif outputs:
        print("\n".join(map(str, outputs)))
