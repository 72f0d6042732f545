"""The sides of a comparison as the operator names them: a generation, a topology file, or what would be built now."""

from pathlib import Path

from imagebuilder.build.disk import command_line
from imagebuilder.build.image import Image
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import kept_image
from imagebuilder.difference import Build, Disk, Part, locked_packages, npm_packages
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.generations import NPM_LOCK, BuiltImage, Generation, Generations, steps_of
from imagebuilder.gpt import HEAD_BYTES, spans
from imagebuilder.lock.model import parse_lock, read_lock
from imagebuilder.plan import NPM_PROJECT, Plan, plan
from imagebuilder.run import say
from imagebuilder.store.folder import Store
from imagebuilder.topology import load_public_keys, load_topology
from imagebuilder.topology.load import INIT_HINT, parsed_toml, read_toml
from imagebuilder.vm.partitions import BLOCK_BYTES, root_partition

NOW = "now"
"""Names what would be built."""


class UnknownBuildError(ImagebuilderError):
    """The operator named a build that does not exist."""

    status = ExitStatus.WRONG_INPUT


def named_build(name: str, files: Files, store: Store) -> Build:
    """Return the build that *name* is: the number of a generation of *files*, "now", or the path of a topology."""
    if name.isdecimal():
        return of_generation(Generations(store, files.topology).find(int(name)), store)
    if name == NOW:
        return of_plan(NOW, files.topology, files.plan())
    path = Path(name)
    if not path.is_file():
        raise UnknownBuildError(
            f"{name!r} is no generation's number, no topology file, and not {NOW!r}", hint="imagebuilder generations"
        )
    return of_plan(name, path, _plan_of(Files(path), files))


def _plan_of(files: Files, fallback: Files) -> Plan:
    """Return the plan of *files*; what does not stand beside the topology is taken from beside *fallback*'s."""
    topology = load_topology(files.topology)
    public, lock = (
        ours if ours.exists() else theirs
        for ours, theirs in ((files.public, fallback.public), (files.lock, fallback.lock))
    )
    for path in {public, lock} - {files.public, files.lock}:
        say(f"{files.topology} has none of its own: taking {path}")
    return plan(topology, load_public_keys(public, topology), read_lock(lock))


def of_plan(name: str, topology: Path, plan: Plan) -> Build:
    """Return what building *plan* would give, as far as that is known before."""
    return Build(
        name=name,
        topology=read_toml(topology, hint=INIT_HINT),
        trees={role: role_plan.tree for role, role_plan in plan.roles.items()},
        packages=locked_packages(plan.lock) | {"npm": npm_packages((NPM_PROJECT / NPM_LOCK).read_text())},
        # The root hash is known when the image is there; comparing passes over that word.
        command_lines={role: command_line("") for role in plan.roles},
        steps=steps_of(plan),
    )


def of_generation(generation: Generation, store: Store) -> Build:
    """Return what *generation* is."""
    record = generation.record
    lock = parse_lock(generation.input("topology.lock").decode(), source=f"the lock of generation {record.number}")
    return Build(
        name=f"generation {record.number}",
        topology=parsed_toml(generation.topology, generation.input("topology.toml")),
        trees={role: generation.tree(role) for role in record.images},
        packages=locked_packages(lock) | {"npm": npm_packages(generation.npm_lock())},
        command_lines={role: image.command_line for role, image in record.images.items()},
        steps=record.steps,
        disks={role: disk_of(image, kept_image(generation, store, role)) for role, image in record.images.items()},
    )


def disk_of(built: BuiltImage, kept: Image | None) -> Disk:
    """Return what is recorded of an image, and what it shows itself while the store has it."""
    if kept is None:
        return Disk(built.sha256, built.size_bytes, built.root_hash)
    with kept.path.open("rb") as file:
        parts = spans(file.read(HEAD_BYTES))
    return Disk(
        built.sha256,
        built.size_bytes,
        built.root_hash,
        data_bytes=kept.path.stat().st_blocks * 512,  # stat(2): always of 512 bytes
        root_bytes=root_partition(kept).blocks * BLOCK_BYTES,
        parts=tuple(Part(part.label, part.offset, part.length) for part in parts),
    )
