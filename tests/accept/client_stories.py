"""Stories told in one room of the client's daemons, each a test of its own."""

import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagebuilder.tools import Tools
from imagebuilder.vm.namespace import has_many_users, inside
from tests.accept.client_room import TOPOLOGY, ClientRoom

Story = Callable[[ClientRoom], None]


@dataclass
class Stories:
    """Stories told one after the other in one room, each a test of its own: making a room takes a while."""

    running: bool
    """Whether the daemons run."""
    described: str = TOPOLOGY
    """The topology's text."""
    told: dict[str, Story] = field(default_factory=dict)

    def __call__(self, story: Story) -> Callable[[dict[str, str] | None], None]:
        """Make a test of *story*; its module has a fixture "outcomes" that calls outcomes()."""
        self.told[story.__name__] = story

        def test(outcomes: dict[str, str] | None) -> None:
            if outcomes is None:
                pytest.skip("a plain user needs a range of subordinate users (newuidmap) to play the daemons' users")
            for name in ("the room", story.__name__):
                if name in outcomes:
                    pytest.fail(outcomes[name], pytrace=False)

        test.__name__ = story.__name__
        test.__module__ = story.__module__
        return test

    def outcomes(self, tools: Tools, packages: Path) -> dict[str, str] | None:
        """Tell every story and return what went wrong in each; None where they can't be told."""
        return inside(functools.partial(self._tell, tools, packages))

    def _tell(self, tools: Tools, packages: Path) -> dict[str, str] | None:
        if not has_many_users():
            return None
        room = ClientRoom(tools, packages, self.described)
        try:
            room.lay_out()
            if self.running:
                room.start()
        except Exception:
            return {"the room": f"{traceback.format_exc()}\n{last_words(room.lines)}"}
        outcomes = {}
        for name, story in self.told.items():
            before = len(room.lines)
            try:
                story(room)
            except Exception:
                outcomes[name] = f"{traceback.format_exc()}\n{last_words(room.lines[before:])}"
        return outcomes


def last_words(lines: list[str]) -> str:
    """Return the end of what was said, of Rspamd only its verdicts and its complaints."""
    wanted = ("rspamd_task_write_log", "error", "cannot")
    kept = (line for line in lines if not line.startswith("rspamd: ") or any(word in line for word in wanted))
    return "\n".join(kept)[-6000:]
