"""A build that ends in a generation, as every command makes it that builds."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from imagebuilder.build.image import Image, command_line
from imagebuilder.commands.files import Files
from imagebuilder.fetch import Sources
from imagebuilder.generations import BuiltImage, Generation, Generations
from imagebuilder.pipeline import Built, build
from imagebuilder.store import Store
from imagebuilder.topology import Role, load_topology


def build_recorded(files: Files, store: Store, sources: Sources) -> tuple[Built, Generation]:
    """Build what *files* say, and return it with its generation, a new one if anything is new."""
    inputs, plan = inputs_of(files), files.plan()
    built = build(store, plan, sources)
    return built, Generations(store, files.topology).record(plan, images_of(built.images), inputs)


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
