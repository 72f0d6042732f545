"""Make sure that what a topology's lock names can be had; lock afresh, loudly, when the archive has moved on.

For throw-away copies of a topology only: ``python -m tests.at_hand PATH``. A user's lock is never changed like this.
"""

import sys
from pathlib import Path

from imagebuilder.cli import main
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.errors import ExitStatus
from imagebuilder.run import say


def at_hand(topology: Path) -> int:
    """Return 0 when everything locked is in the store, after locking *topology* afresh if need be."""
    plan = Files(topology).plan()
    if all(the_store().has(step) for step in plan.steps):
        return ExitStatus.OK
    if main(["lock", "--check", "-t", str(topology)]) == ExitStatus.OK:
        return ExitStatus.OK
    say("=" * 100)
    say("The committed lock can no longer be fetched as a whole (see above): locking afresh in this working copy.")
    say("The images will differ from those of the committed lock.")
    say("=" * 100)
    return main(["lock", "-t", str(topology)]) or main(["lock", "--check", "-t", str(topology)])


if __name__ == "__main__":
    sys.exit(at_hand(Path(sys.argv[1])))
