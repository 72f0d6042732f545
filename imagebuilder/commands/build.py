"""`build`: both images, or nothing to do."""

import json
from argparse import ArgumentParser, Namespace

from imagebuilder.build.image import Image
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_recorded
from imagebuilder.commands.sources import source_arguments, sources_of, the_store
from imagebuilder.generations import Generation
from imagebuilder.pipeline import Built
from imagebuilder.run import say


def arguments(parser: ArgumentParser) -> None:
    """Declare what `build` takes."""
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Build, and print where the images are."""
    built, generation = build_recorded(Files(args.topology), the_store(), sources_of(args))
    if not built.made:
        say("nothing to do: both images are in the store")
    say(f"generation {generation.number}")
    print(as_json(built, generation) if args.json else as_text(built))
    return 0


def as_json(built: Built, generation: Generation) -> str:
    """Return *built* for machines."""
    images = {role: _facts(image) for role, image in built.images.items()}
    return json.dumps({"images": images, "generation": generation.number}, indent=2)


def as_text(built: Built) -> str:
    """Return *built* for people: role, SHA-256 and path, a line each."""
    return "\n".join(f"{role:6}  {image.sha256}  {image.path}" for role, image in built.images.items())


def _facts(image: Image) -> dict[str, object]:
    return {
        "path": str(image.path),
        "sha256": image.sha256,
        "size_bytes": image.size_bytes,
        "root_hash": image.root_hash,
    }
