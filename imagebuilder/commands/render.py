"""`render`: the trees of both images as files, to look at."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from imagebuilder.commands.files import Files
from imagebuilder.errors import ImagebuilderError
from imagebuilder.render import render_role
from imagebuilder.services import Site
from imagebuilder.topology import Role, load_public_keys, load_topology
from imagebuilder.tree import Tree


def arguments(parser: ArgumentParser) -> None:
    """Declare what `render` takes."""
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("rendered"), help="where to write (default: ./rendered)"
    )


def run(args: Namespace) -> int:
    """Write both trees below the folder, which must be new or empty, and print it."""
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise ImagebuilderError(
            f"{args.folder} is there already and not empty", hint=f"imagebuilder render {args.folder}-2"
        )
    topology = load_topology(args.topology)
    public = load_public_keys(Files(args.topology).public, topology)
    for role in Role:
        write(render_role(Site(topology, public, role)), args.folder / role)
    print(args.folder)
    return 0


def write(tree: Tree, folder: Path) -> None:
    """Write *tree* below *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in tree.folders:
        (folder / path).mkdir(exist_ok=True)
    for path, file in tree.files.items():
        (folder / path).write_bytes(file.content)
        (folder / path).chmod(file.mode)
    for path, link in tree.links.items():
        (folder / path).symlink_to(link)
