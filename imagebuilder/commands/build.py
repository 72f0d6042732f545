"""`build`: both images, or nothing to do."""

import json
from argparse import ArgumentParser, Namespace

from imagebuilder.build.image import Image
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import source_arguments, sources_of, the_store
from imagebuilder.pipeline import Built, build
from imagebuilder.run import say


def arguments(parser: ArgumentParser) -> None:
    """Declare what `build` takes."""
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Build, and print where the images are."""
    built = build(the_store(), Files(args.topology).plan(), sources_of(args))
    if not built.made:
        say("nothing to do: both images are in the store")
    print(as_json(built) if args.json else as_text(built))
    return 0


def as_json(built: Built) -> str:
    """Return *built* for machines."""
    images = {role: _facts(image) for role, image in built.images.items()}
    return json.dumps({"images": images}, indent=2)


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
