"""Where the store is, and where in it what belongs to a topology. Reads the environment."""

import hashlib
import os
from pathlib import Path


def default_store() -> Path:
    """Return the folder of the store: IMAGEBUILDER_STORE, or the XDG data folder."""
    if named := os.environ.get("IMAGEBUILDER_STORE"):
        return Path(named).absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(data).absolute() / "imagebuilder"


def generations_folder(store: Path, topology: Path) -> Path:
    """Return where the generations of the operator's file *topology* are: they belong to its place, not its content."""
    place = hashlib.sha256(os.fsencode(topology.resolve())).hexdigest()[:32]
    return store / "generations" / place
