"""What `boot` and `test` start from: the operator's files, read, and both images, built if need be."""

from argparse import Namespace

from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_recorded
from imagebuilder.commands.sources import new_run, sources_of, the_store
from imagebuilder.vault import read_secrets
from imagebuilder.vm.session import Subject


def subject_of(args: Namespace) -> Subject:
    """Return what the topology of *args* is when it runs, with a new folder for this run; build what is missing."""
    files, store = Files(args.topology), the_store()
    topology, public, _ = files.read()
    secrets = read_secrets(files.secrets)
    built, _ = build_recorded(files, store, sources_of(args))
    return Subject(built.images, topology, public, secrets, built.tools, new_run(store).resolve(), store.root)
