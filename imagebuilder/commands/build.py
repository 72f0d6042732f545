"""`build`: both images, or nothing to do."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_again, build_recorded
from imagebuilder.commands.sources import source_arguments, sources_of, the_store
from imagebuilder.generations import Generations
from imagebuilder.run import say
from imagebuilder.topology import Role


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
    files, store, sources = Files(args.topology), the_store(), sources_of(args)
    images: Mapping[Role, Image]
    if args.generation is None:
        built, generation = build_recorded(files, store, sources, sign_with=args.sign_with)
        images, made = built.images, bool(built.made)
    else:
        generation = Generations(store, files.topology).find(args.generation)
        images, made = build_again(generation, store, sources)
    if not made:
        say("nothing to do: both images are in the store")
    say(f"generation {generation.number}")
    print(as_json(images, generation.number) if args.json else as_text(images))
    return 0


def as_json(images: Mapping[Role, Image], generation: int) -> str:
    """Return what was built for machines."""
    facts = {role: _facts(image) for role, image in images.items()}
    return json.dumps({"images": facts, "generation": generation}, indent=2)


def as_text(images: Mapping[Role, Image]) -> str:
    """Return what was built for people: role, SHA-256 and path, a line each."""
    return "\n".join(f"{role:6}  {image.sha256}  {image.path}" for role, image in images.items())


def _facts(image: Image) -> dict[str, object]:
    return {
        "path": str(image.path),
        "sha256": image.sha256,
        "size_bytes": image.size_bytes,
        "root_hash": image.root_hash,
    }
