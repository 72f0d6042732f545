"""A build that ends in a generation, as every command makes it that builds; and building one again."""

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from imagebuilder.build.disk import command_line
from imagebuilder.build.image import Image, image_of
from imagebuilder.commands import unchanged
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import sources_of, the_store
from imagebuilder.errors import ImagebuilderError
from imagebuilder.fetch import Sources
from imagebuilder.generations import BuiltImage, Generation, Generations, keep_provenance, steps_of
from imagebuilder.pipeline import Built, build
from imagebuilder.statements.intoto import PAYLOAD_TYPE
from imagebuilder.statements.provenance import provenance
from imagebuilder.statements.signing import TRUSTED_KEYS_VARIABLE, configured_signing_key, sign
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role, load_topology


def build_as_asked(args: Namespace) -> tuple[bool, int, Mapping[str, Mapping[str, Any]]]:
    """Build what the arguments of `build` say; return whether anything was made, the generation's number, the images.

    What was asked is noted, so that asking just the same again can be answered at once.
    """
    files, store, sources = Files(args.topology), the_store(), sources_of(args)
    images: Mapping[Role, Image]
    if args.generation is None:
        asked = unchanged.asked(read_for(files))
        built, generation = build_recorded(files, store, sources, sign_with=args.sign_with)
        unchanged.note(generation.folder.parent, asked, generation.number)
        images, made = built.images, bool(built.made)
    else:
        generation = Generations(store, files.topology).find(args.generation)
        images, made = build_again(generation, store, sources)
    return made, generation.number, {role: asdict(image) for role, image in images.items()}


def read_for(files: Files) -> tuple[Path, ...]:
    """Return every file of the operator's that a build of *files* reads, or would if it were there."""
    root, keys = load_topology(files.topology).acme.ca_root, os.environ.get(TRUSTED_KEYS_VARIABLE)
    read = [files.topology, files.public, files.lock, files.overrides]
    read += [files.topology.parent / root] if root else []
    return (*read, Path(keys)) if keys else tuple(read)


def build_recorded(
    files: Files, store: Store, sources: Sources, *, sign_with: Path | None = None
) -> tuple[Built, Generation]:
    """Build what *files* say, and return it with its generation, a new one if anything is new.

    How it was made is signed by the key in *sign_with* or that of the environment; a key that is wrong is reported
    before anything is built.
    """
    key = configured_signing_key(sign_with)
    plan = files.plan()
    inputs = inputs_of(files)
    built = build(store, plan, sources)
    generation = Generations(store, files.topology).record(plan, images_of(built.images), inputs)
    if key is not None or not generation.provenance.exists():
        said = provenance(plan, generation.inputs(), generation.digests, generation.npm_lock())
        keep_provenance(store, generation, sign(PAYLOAD_TYPE, said.to_bytes(), key))
    return built, generation


def build_again(generation: Generation, store: Store, sources: Sources) -> tuple[Mapping[Role, Image], bool]:
    """Return the images of *generation*, and whether they had to be made; nothing is recorded.

    They are made from the generation's own copies. Raise ImagebuilderError when that gives other bytes.
    """
    kept = {role: kept_image(generation, store, role) for role in generation.record.images}
    images = {role: image for role, image in kept.items() if image is not None}
    if len(images) == len(kept):
        return images, False
    generation.inputs()  # damage is told as that, not as what it leads to
    by_whom = f"it was made by imagebuilder {generation.record.imagebuilder}; run the very checkout that made it"
    try:
        plan = Files(generation.topology).plan()
    except ImagebuilderError as error:
        # It was fine when it was built: since then imagebuilder has come to want something else.
        raise ImagebuilderError(f"generation {generation.number} can't be made again: {error}", hint=by_whom) from error
    made = build(store, plan, sources).images
    wrong = [role for role, sha256 in generation.digests.items() if made[role].sha256 != sha256]
    if wrong:
        other = [name for name, key in steps_of(plan).items() if generation.record.steps.get(name) != key]
        raise ImagebuilderError(
            f"generation {generation.number} can't be made again: {' and '.join(wrong)} came out with other bytes"
            + (f", as this imagebuilder has other steps: {', '.join(other)}" if other else ""),
            hint=by_whom if other else "imagebuilder verify shows what differs",
        )
    return made, True


def kept_image(generation: Generation, store: Store, role: Role) -> Image | None:
    """Return the image of *role* as the store still has it, or the parts of it, if it does."""
    image = image_of(store, generation.record.steps, role)
    return image if image and image.sha256 == generation.digests[role] else None


def images_of(images: Mapping[Role, Image]) -> dict[Role, BuiltImage]:
    """Return *images* as a generation records them. Pure."""
    return {
        role: BuiltImage(
            path=image.path,
            sha256=image.sha256,
            size_bytes=image.size_bytes,
            root_hash=image.root_hash,
            command_line=command_line(image.root_hash),
        )
        for role, image in images.items()
    }


def inputs_of(files: Files) -> dict[str, bytes]:
    """Return what a later build needs to make the same again: the operator's files by the name of their copy.

    A file that the topology names outside of its own folder is not among them.
    """
    topology = load_topology(files.topology)
    sources = {"topology.toml": files.topology, "topology.public.toml": files.public, "topology.lock": files.lock}
    root = topology.acme.ca_root
    if root is not None and not root.is_absolute() and ".." not in PurePosixPath(root).parts:
        sources[str(root)] = files.topology.parent / root
    # One that is missing is reported by whoever reads it for the plan.
    return {name: path.read_bytes() for name, path in sources.items() if path.is_file()}
