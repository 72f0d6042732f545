"""A build that was asked for just like this before: what came of it is read from its generation.

To see that nothing has changed, every file that was read is hashed, ours and the operator's, but none is understood:
that, and importing what it takes, would be most of the work. Imports nothing of ours that does.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuilder.resources import OVERLAYS, PACKAGE, PROFILES

NOTE = "asked.json"
"""Beside a topology's generations: what the last build was asked, and which generation it gave."""


@dataclass(frozen=True)
class Asked:
    """What a build starts from."""

    by: str
    """SHA-256 (hex) of our own files, the interpreter, what is installed for it and our variables."""
    files: Mapping[str, str | None]
    """SHA-256 (hex) by path of each of the operator's files; None of one that is missing."""


def asked(files: Iterable[Path]) -> Asked:
    """Return what a build is asked that reads *files* of the operator."""
    return Asked(_surroundings(), {str(path.absolute()): _sha256(path) for path in files})


def note(folder: Path, what: Asked, generation: int) -> None:
    """Note in *folder*, of a topology's generations, that *what* gave *generation*."""
    new = folder / f"{NOTE}.{os.getpid()}"
    new.write_text(json.dumps({"by": what.by, "files": what.files, "generation": generation}, indent=2) + "\n")
    new.replace(folder / NOTE)


def answer(folder: Path, outputs: Path) -> tuple[int, dict[str, dict[str, Any]]] | None:
    """Return what asking again would give: the newest generation in *folder*, and its images by role.

    None when something differs from what was asked then, or is not there any more. *outputs* are those of the store.
    """
    try:
        noted = json.loads((folder / NOTE).read_text())
        newest = max(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        record = json.loads((folder / str(newest) / "generation.json").read_text())
        steps = record["steps"]
        images = {
            role: image | {"path": outputs / f"{steps[f'{role}-image']}-{role}-image" / "disk.raw"}
            for role, image in record["images"].items()
        }
        needed = [image["path"] for image in images.values()]
        needed += [outputs / f"{steps['tools']}-tools", folder / str(newest) / "provenance.json"]
        if noted["generation"] != newest or not all(path.exists() for path in needed):
            return None
        if any(_sha256(Path(path)) != digest for path, digest in noted["files"].items()):
            return None
        if noted["by"] != _surroundings():
            return None
        for image in images.values():
            os.utime(image["path"].parent)  # what was used last is kept longest
    except (OSError, ValueError, KeyError):  # no build yet, or one that was noted otherwise
        return None
    return newest, images


def _surroundings() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for folder in sorted({PACKAGE, PROFILES, OVERLAYS}):
        for root, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                with open(os.path.join(root, name), "rb") as file:  # noqa: PTH118, PTH123 (hundreds of them)
                    digest.update(f"{root}/{name} {hashlib.sha256(file.read()).hexdigest()}\n".encode())
    for place in sys.path:
        if os.path.isdir(place):  # noqa: PTH112
            installed = sorted(name for name in os.listdir(place) if name.endswith(".dist-info"))  # noqa: PTH208
            digest.update(f"{place} {installed}\n".encode())
    ours = sorted((name, value) for name, value in os.environ.items() if name.startswith("IMAGEBUILDER_"))
    digest.update(repr(ours).encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:  # whoever reads it for what it says tells about that
        return f"unreadable: {error.strerror}"
