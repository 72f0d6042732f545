"""Make sure that what a topology's lock names can be had; lock afresh, loudly, when the archive has moved on.

For throw-away copies of a topology only: ``python -m tests.at_hand PATH``. A user's lock is never changed like this.
"""

import sys
from pathlib import Path

from imagebuilder.cli import main
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.fetch import fetch
from imagebuilder.lock.model import read_lock
from imagebuilder.run import say


def at_hand(topology: Path) -> int:
    """Return 0 when everything locked is in the store, after locking *topology* afresh if need be."""
    plan = Files(topology).plan()
    # Images are put together from the rest.
    if all(the_store().has(step) for step in plan.steps if step not in plan.images):
        return ExitStatus.OK
    try:
        fetch(the_store(), plan.lock.packages, sources_of_environment(), states=plan.lock.states)
        return ExitStatus.OK
    except ImagebuilderError as error:
        say(str(error))
    say("=" * 100)
    say("The committed lock can no longer be fetched as a whole (see above): locking afresh in this working copy.")
    say("The images will differ from those of the committed lock.")
    say("=" * 100)
    if status := main(["lock", "--update", "-t", str(topology)]):
        return status
    lock = read_lock(Files(topology).lock)
    fetch(the_store(), lock.packages, sources_of_environment(), states=lock.states)
    return ExitStatus.OK


if __name__ == "__main__":
    sys.exit(at_hand(Path(sys.argv[1])))
