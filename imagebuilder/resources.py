"""Where the package's own folders are: beside the sources, or inside the installed wheel. Reads files."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """Return the folder ``profiles`` or ``overlays``, in a checkout or in an installed wheel."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


PROFILES = folder("profiles")
OVERLAYS = folder("overlays")
