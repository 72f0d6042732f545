"""What `boot` and `test` start from: the operator's files, read, and both images, built if need be."""

import hashlib
from argparse import Namespace
from collections.abc import Mapping

from imagebuilder.build.image import Image
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_again, build_recorded
from imagebuilder.commands.sources import sources_of, the_store
from imagebuilder.generations import Generation, Generations
from imagebuilder.runs.history import History
from imagebuilder.secrets.vault import read_secrets
from imagebuilder.shipping.gate import tools_tree
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm.recording import Origin
from imagebuilder.vm.session import Subject


def subject_of(args: Namespace, *, keep: bool = False) -> tuple[Subject, Origin]:
    """Return what the topology of *args* is when it runs, and which files it comes from; build what is missing.

    It gets a new folder in the history. With *keep* its disks stay there. When *args* name a generation, it is that.
    """
    files, store, sources = Files(args.topology), the_store(), sources_of(args)
    secrets = read_secrets(files.secrets)
    images: Mapping[Role, Image]
    if (number := getattr(args, "generation", None)) is not None:
        generation = Generations(store, files.topology).find(number)
        images, _ = build_again(generation, store, sources)
        # As it was then; the secrets are today's, as they are no part of an image.
        read, tools = Files(generation.topology), Tools(tools_tree(store, generation))
    else:
        files.read()  # what is wrong with the operator's files is told before anything is built
        built, generation = build_recorded(files, store, sources)
        images, read, tools = built.images, files, built.tools
    topology, public, _ = read.read()
    origin = origin_of(files, read, generation, store)
    return Subject(images, topology, public, tools, History(store).new_run(), secrets, store.root, keep), origin


def origin_of(files: Files, read: Files, generation: Generation, store: Store) -> Origin:
    """Return where what is tested comes from: the operator's *files*, which were *read* as they were back then."""
    return Origin(
        topology=files.topology.name,
        topology_key=topology_key(files, store),
        topology_sha256=hashlib.sha256(read.topology.read_bytes()).hexdigest(),
        lock_sha256=hashlib.sha256(read.lock.read_bytes()).hexdigest(),
        generation=generation.number,
    )


def topology_key(files: Files, store: Store) -> str:
    """Return what is the same for all generations and runs of one topology file."""
    return Generations(store, files.topology).folder.name
