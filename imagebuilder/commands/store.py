"""`store`: look after what is kept."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from imagebuilder.commands.sources import the_store
from imagebuilder.errors import ExitStatus
from imagebuilder.run import say
from imagebuilder.upkeep import discard, inspect


def arguments(parser: ArgumentParser) -> None:
    """Declare what `store` takes."""
    parser.add_argument("action", choices=["verify"], help="verify: hash everything again, and name what is damaged")
    parser.add_argument("--remove", action="store_true", help="verify: remove what is damaged, so that it is made anew")


def run(args: Namespace) -> int:
    """Print what is damaged; fail when something is and stays."""
    store = the_store()
    say(f"hashing everything in {store.root}")
    found = inspect(store)
    if args.remove:
        discard(store, found.damaged)
    if args.json:
        told = asdict(found) | {"damaged": [{"path": str(d.path), "reason": d.reason} for d in found.damaged]}
        print(json.dumps(told | {"removed": args.remove}, indent=2))
    elif found.damaged:
        print("\n".join(map(str, found.damaged)))
    for name in found.unrecorded:
        say(f"{name}: made by an earlier version, which recorded no digests")
    say(f"{found.files} files and {found.outputs} outputs: {len(found.damaged)} damaged")
    if found.damaged and not args.remove:
        say("hint: remove what is damaged, it will be fetched or built again: imagebuilder store verify --remove")
    return ExitStatus.FAILED if found.damaged and not args.remove else ExitStatus.OK
