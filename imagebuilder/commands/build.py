"""`build`: both images, or nothing to do."""

import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagebuilder.commands import unchanged
from imagebuilder.commands.sources import source_arguments
from imagebuilder.run import say
from imagebuilder.store.place import default_store, generations_folder


def arguments(parser: ArgumentParser) -> None:
    """Declare what `build` takes."""
    parser.add_argument(
        "--generation", type=int, metavar="N", help="give generation N again, whatever the topology says by now"
    )
    parser.add_argument(
        "--sign-with",
        type=Path,
        metavar="FILE",
        help="sign how it was made with this private OpenSSH key (also IMAGEBUILDER_SIGNING_KEY)",
    )
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Build, and print where the images are."""
    store = default_store()
    images: Mapping[str, Mapping[str, Any]]
    same = unchanged.answer(generations_folder(store, args.topology), store / "outputs") if _plainly(args) else None
    if same:
        made, number, images = False, *same
    else:
        from imagebuilder.commands.recorded import build_as_asked  # what it takes to build is much to import

        made, number, images = build_as_asked(args)
    if not made:
        say("nothing to do: both images are in the store")
    say(f"generation {number}")
    print(as_json(images, number) if args.json else as_text(images))
    return 0


def _plainly(args: Namespace) -> bool:
    """Say whether nothing but the operator's files and the environment says what to do."""
    options = (args.sign_with, args.trusted_keys, args.snapshot, *args.substituter)
    return args.generation is None and not any(options) and not os.environ.get("IMAGEBUILDER_SIGNING_KEY")


def as_json(images: Mapping[str, Mapping[str, Any]], generation: int) -> str:
    """Return what was built for machines."""
    told = ("path", "sha256", "size_bytes", "root_hash")
    facts = {role: {name: image[name] for name in told} for role, image in images.items()}
    return json.dumps({"images": facts, "generation": generation}, indent=2, default=str)


def as_text(images: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what was built for people: role, SHA-256 and path, a line each."""
    return "\n".join(f"{role:6}  {image['sha256']}  {image['path']}" for role, image in images.items())
