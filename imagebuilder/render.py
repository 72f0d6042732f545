"""From a site to the files of an image: every overlay of a role, its templates filled in. Reads the overlays."""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path, PurePosixPath

from jinja2 import Environment, StrictUndefined, Template

from imagebuilder.resources import OVERLAYS
from imagebuilder.services import SERVICES, Service, Site, Values
from imagebuilder.tree import Tree, TreeFile

TEMPLATE_SUFFIX = ".j2"

WANTED_BY = {
    ".service": "multi-user.target",
    ".socket": "sockets.target",
    ".timer": "timers.target",
    ".path": "paths.target",
}
"""Which target pulls in an enabled unit, by the unit's kind."""


@cache
def environment() -> Environment:
    """Return the one way in which templates are read: an unknown name is an error, text stays as it is."""
    return Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )  # fmt: skip


def services_of(site: Site) -> tuple[Service, ...]:
    """Return the services that *site*'s role has in its topology. Pure."""
    return tuple(service for service in SERVICES if site.role in service.roles and service.wanted(site.topology))


def overlay_files(service: Service) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield (path in the image, source file) of the overlay of *service*, sorted."""
    root = OVERLAYS / service.name
    for source in sorted(root.rglob("*")):
        if source.is_file():
            path = PurePosixPath(source.relative_to(root).as_posix())
            yield path.with_suffix("") if path.suffix == TEMPLATE_SUFFIX else path, source


def render_file(source: Path, values: Values) -> TreeFile:
    """Return what *source* becomes in the image with *values*."""
    mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
    if source.suffix != TEMPLATE_SUFFIX:
        return TreeFile(source.read_bytes(), mode)
    template: Template = environment().from_string(source.read_text())
    return TreeFile(template.render({f.name: getattr(values, f.name) for f in fields(values)}).encode(), mode)


def enabled(units: tuple[str, ...]) -> Tree:
    """Return the links that enable *units*. Pure."""
    links = {}
    for unit in units:
        target = WANTED_BY[PurePosixPath(unit).suffix]
        links[PurePosixPath(f"etc/systemd/system/{target}.wants/{unit}")] = f"/usr/lib/systemd/system/{unit}"
    return Tree(links=links)


def render_service(service: Service, site: Site) -> Tree:
    """Return the files and links of one service."""
    values = service.values(site)
    files = {path: render_file(source, values) for path, source in overlay_files(service)}
    return Tree(files) | enabled(service.units)


def render_role(site: Site) -> Tree:
    """Return the rendered tree of *site*'s role; two services never write the same path."""
    tree = Tree()
    for service in services_of(site):
        tree |= render_service(service, site)
    return tree
