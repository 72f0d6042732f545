"""What `boot` and `test` start from: the operator's files, read, and both images, built if need be."""

import hashlib
from argparse import Namespace

from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_recorded
from imagebuilder.commands.sources import sources_of, the_store
from imagebuilder.generations import Generations
from imagebuilder.history import History
from imagebuilder.store import Store
from imagebuilder.vault import read_secrets
from imagebuilder.vm.recording import Origin
from imagebuilder.vm.session import Subject


def subject_of(args: Namespace, *, keep: bool = False) -> tuple[Subject, Origin]:
    """Return what the topology of *args* is when it runs, and which files it comes from; build what is missing.

    It gets a new folder in the history. With *keep* its disks stay there.
    """
    files, store = Files(args.topology), the_store()
    topology, public, _ = files.read()
    secrets = read_secrets(files.secrets)
    built, generation = build_recorded(files, store, sources_of(args))
    origin = Origin(
        topology=files.topology.name,
        topology_key=topology_key(files, store),
        topology_sha256=hashlib.sha256(files.topology.read_bytes()).hexdigest(),
        lock_sha256=hashlib.sha256(files.lock.read_bytes()).hexdigest(),
        generation=generation.number,
    )
    folder = History(store).new_run()
    return Subject(built.images, topology, public, secrets, built.tools, folder, store.root, keep), origin


def topology_key(files: Files, store: Store) -> str:
    """Return what is the same for all generations and runs of one topology file."""
    return Generations(store, files.topology).folder.name
