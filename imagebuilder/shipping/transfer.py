"""Writes a provisioned image to a disk of another machine, over a shell there, and reads it back. Owns that disk.

The order is that of `flash`: the beginning of the disk, without which nothing starts from it, comes last, after all
else was read back past the cache. Until then a mark is in its place. What a cut connection left is found out by the
hashes of what is on the disk, so that it makes no difference when the cut came, nor what became of the last bytes.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.run import say
from imagebuilder.shipping.cells import Place, cells
from imagebuilder.shipping.far_disk import FarDisk
from imagebuilder.shipping.progress import Progress
from imagebuilder.shipping.provision import Provisioned
from imagebuilder.shipping.remote import LostError, RemoteError, Shell

TRIES = 5
"""As often in a row a lost connection is made again without having brought anything through."""
LONGEST_PAUSE_S = 20
ROUNDS = 3
"""As often a cell is sent before the disk is said to lose what it is given."""


@dataclass
class Tally:
    """What an upload has done so far, over all its connections."""

    written_bytes: int = 0
    """Of the disk, before compression; what was sent twice counts twice."""
    sent_bytes: int = 0
    """Handed to ssh, compressed."""
    kept_bytes: int = 0
    """Data found on the disk already, from before a cut."""
    connections: int = 0
    write_s: float = 0.0
    """Seconds that sending and writing took."""
    read_s: float = 0.0
    """Seconds that reading back took."""


def upload(
    provisioned: Provisioned,
    connect: Callable[[], AbstractContextManager[Shell]],
    disk: Path,
    *,
    who: str,
    then: Callable[[Shell], None] | None = None,
) -> Tally:
    """Write *provisioned* to *disk* of the machine that *connect* gives a shell at, and return what was done.

    *who* names this uploader, in one word: what it left running over there, when the network went away, is ended; that
    of another is respected. A lost connection is made again, a few times, and goes on where it was. *then* is what
    comes last over there, as a new start.
    """
    tally, fruitless = Tally(), 0
    job = _Job(provisioned, tuple(cell.place for cell in cells(provisioned)), tally)
    while True:
        before = tally.written_bytes
        try:
            with connect() as shell:
                tally.connections += 1
                job.attempt(FarDisk(shell, disk, who))
                if then:
                    then(shell)
                return tally
        except LostError as error:
            fruitless = 0 if tally.written_bytes > before else fruitless + 1
            if fruitless >= TRIES:
                raise RemoteError(
                    f"{error}: given up, and nothing starts from {disk} over there",
                    hint="the same command again goes on where this one stopped",
                ) from None
            pause = min(2**fruitless, LONGEST_PAUSE_S)
            say(f"{error}: trying again in {pause} s")
            time.sleep(pause)


@dataclass(frozen=True)
class _Job:
    """What is to be brought over, and the account of it."""

    provisioned: Provisioned
    places: tuple[Place, ...]
    tally: Tally

    def attempt(self, disk: FarDisk) -> None:
        """Bring *disk* to what it has to be, from whatever it is."""
        disk.lock()
        disk.look(self.provisioned.size_bytes)
        mark, image = f"imagebuilder upload {self.provisioned.image.sha256}", self.provisioned.image
        table = [place for place in self.places if place.offset == 0 or place.offset >= image.size_bytes]
        rest = [place for place in self.places if place not in table]
        begun = disk.mark(len(mark)) == mark
        if begun or not self._differing(disk, table):
            wrong = self._differing(disk, rest, f"comparing {disk}")
            self.tally.kept_bytes = sum(place.length for place in rest if not place.empty and place not in wrong)
            if wrong and not begun:
                disk.begin(mark, forget=False)
        else:
            disk.begin(mark, forget=True)
            self._send(disk, [place for place in rest if not place.empty])
            wrong = self._differing(disk, rest, f"reading {disk} back")
        self._correct(disk, wrong)
        # The second copy of the table first: a firmware may take it for the first, which is withheld.
        for place in reversed(table):
            self._correct(disk, self._differing(disk, [place]))
        disk.announce()

    def _correct(self, disk: FarDisk, wrong: list[Place]) -> None:
        """Send what is *wrong*, and again what doesn't come back as it was sent; raise RemoteError after a while."""
        for _ in range(ROUNDS):
            if not wrong:
                return
            self._send(disk, wrong)
            wrong = self._differing(disk, wrong)
        if wrong:
            raise RemoteError(
                f"{disk} gives back other bytes than were written to it, at {wrong[0].offset:,} and after",
                hint="that disk is broken, or something else writes to it: nothing starts from it now",
            )

    def _send(self, disk: FarDisk, wanted: list[Place]) -> None:
        """Send *wanted*, in their order on the disk."""
        progress = Progress(f"sending to {disk}", sum(place.length for place in wanted))
        lengths, done, before = {place.offset: place.length for place in wanted}, 0, disk.shell.sent_bytes
        try:
            for offset in disk.write(wanted, (cell for cell in cells(self.provisioned) if cell.offset in lengths)):
                done += lengths[offset]
                self.tally.written_bytes += lengths[offset]
                progress.reached(done)
        finally:
            progress.end()
            self.tally.sent_bytes += disk.shell.sent_bytes - before
            self.tally.write_s += progress.seconds

    def _differing(self, disk: FarDisk, asked: list[Place], what: str | None = None) -> list[Place]:
        """Return those of *asked* that are not on *disk* as they have to be; *what* is said to be done."""
        progress = Progress(what, sum(place.length for place in asked)) if what else None
        started, wrong, done = time.monotonic(), [], 0
        for place, found in zip(asked, disk.hashes(asked), strict=True):
            if found != place.sha256:
                wrong.append(place)
            done += place.length
            if progress:
                progress.reached(done)
        if progress:
            progress.end()
        self.tally.read_s += time.monotonic() - started
        return wrong
