"""diffoscope, which knows hundreds of formats, asked about two versions of a file where this machine has it."""

import os
import shutil
from pathlib import Path

from imagebuilder.comparison.entries import Entry, Kind
from imagebuilder.run import ProcessError, run

LARGEST = 64 * 2**20
"""Bytes beyond which it would take too long."""
LINES = 60
"""Of its answer that are kept."""
DIFFERENT = 1
"""Its exit status when the files differ."""


def explained(first: Entry | None, second: Entry | None, name: str, work: Path) -> str:
    """Return what diffoscope says about two versions of the file *name*; empty when it is not there or can't help."""
    if first is None or second is None or first.digest == second.digest or Kind.FOLDER in (first.kind, second.kind):
        return ""
    if max(first.size, second.size) > LARGEST or shutil.which("diffoscope") is None:
        return ""
    folder = work / "diffoscope"
    paths = [folder / side / Path(name).name for side in ("first", "second")]
    try:
        for path, entry in zip(paths, (first, second), strict=True):
            path.parent.mkdir(parents=True)
            path.write_bytes(entry.read())
            os.utime(path, (0, 0))
        run(["diffoscope", "--exclude-directory-metadata=yes", "--text=-", *map(str, paths)], timeout_s=300)
    except ProcessError as error:
        lines = error.stdout.splitlines() if error.returncode == DIFFERENT else [str(error)]
        return "\n".join(lines[:LINES])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""
