"""How far a long transfer is, on stderr: one changing line on a terminal, a line per tenth otherwise."""

import sys
import time

from imagebuilder.run import say

REDRAW_S = 0.2
"""Seconds between two looks of the changing line."""


class Progress:
    """Tells how far *what* is, out of *total* bytes."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = max(total, 1)
        self._started = time.monotonic()
        self._told = -1.0
        self._live = sys.stderr.isatty()
        self.seconds = 0.0
        """From the beginning to the last call."""

    def reached(self, done: int) -> None:
        """Say that *done* bytes are through, if it is time to."""
        now = time.monotonic()
        self.seconds = now - self._started
        if self._live:
            if now - self._told >= REDRAW_S or done >= self._total:
                self._told = now
                print(f"\r{self._line(done)}\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201 (no line yet)
        elif done * 10 // self._total > self._told:
            self._told = done * 10 // self._total
            say(self._line(done))

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._told >= 0:
            print(file=sys.stderr, flush=True)  # noqa: T201 (ends the line above)

    def _line(self, done: int) -> str:
        rate = done / self.seconds / 1e6 if self.seconds else 0.0
        share = f"{done * 100 // self._total} %"
        return f"{self._what}: {share}, {done / 2**20:,.0f} of {self._total / 2**20:,.0f} MiB, {rate:,.0f} MB/s"
