"""Circumstances of a build that must not change a byte: what this machine lets us vary, and how. Reads the machine."""

import os
import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import run
from imagebuilder.tools import Clock

UMASK = 0o077
TIME_ZONE = "Pacific/Chatham"
"""12:45 hours from UTC, 13:45 in its summer: no other zone has such minutes."""
LOCALE = "tr_TR.UTF-8"
"""Where the capital of i is not I."""
OFFSET = "+400d"
"""Another year, and another day of the week."""

LIBRARY = "vendor/libfaketime/src/libfaketime.so.1"
SUBORDINATE_IDS = (Path("/etc/subuid"), Path("/etc/subgid"))


@dataclass(frozen=True)
class Circumstances:
    """How a second build differs from the first."""

    user: str | None = None
    """A plain user who makes it in place of root."""
    processor: int | None = None
    """The only one it may use."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """What could not be varied, and why."""

    @property
    def varied(self) -> dict[str, str]:
        """Return what differs, by name."""
        told = {
            "directory": "another store",
            "umask": f"{UMASK:03o}",
            "time zone": TIME_ZONE,
            "locale": LOCALE,
            "time": OFFSET,
        }
        if self.processor is not None:
            told["processors"] = f"{processors()} and 1"
        if self.user:
            told["user"] = f"root and {self.user}"
        return told

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of the second build."""
        return {"TZ": TIME_ZONE, "LC_ALL": LOCALE, "LANG": LOCALE}

    def argv(self, command: list[str]) -> list[str]:
        """Return the argv that runs *command* like this, but for umask, environment and clock."""
        argv = [] if self.processor is None else ["taskset", "--cpu-list", str(self.processor)]
        return [*argv, *(as_user(self.user) if self.user else []), *command]


def circumstances(store: Path) -> Circumstances:
    """Return what can be varied here for a second build from the downloads in *store*."""
    fixed = {}
    user, processor = None, None
    if os.geteuid() == 0:
        user = plain_user(store)
        if user is None:
            fixed["user"] = (
                f"no plain user has a range in {' and '.join(map(str, SUBORDINATE_IDS))} and may read both {store} and "
                f"{sys.executable}"
            )
    else:
        fixed["user"] = "only root can build as somebody else too"
    if processors() > 1:
        processor = min(os.sched_getaffinity(0))
    else:
        fixed["processors"] = "there is only one"
    return Circumstances(user, processor, fixed)


def processors() -> int:
    """Return how many processors we may use."""
    return len(os.sched_getaffinity(0))


def other_clock() -> Clock:
    """Return a time that is not the machine's."""
    spec = find_spec("libfaketime")
    assert spec is not None and spec.submodule_search_locations is not None
    return Clock(Path(spec.submodule_search_locations[0]) / LIBRARY, OFFSET)


def as_user(name: str) -> list[str]:
    """Return what runs a program as the user *name*, ending with us like any other."""
    user = pwd.getpwnam(name)
    argv = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--pdeathsig=KILL"]
    return [*argv, "--", "env", f"HOME={user.pw_dir}", f"USER={name}"]


def plain_user(store: Path) -> str | None:
    """Return a plain user who can build from the downloads in *store*, if there is one."""
    ranges = [{line.split(":")[0] for line in _lines(path)} for path in SUBORDINATE_IDS]
    known = {user.pw_name for user in pwd.getpwall() if user.pw_uid != 0}
    for name in sorted(set.intersection(known, *ranges)):
        try:
            run(
                [*as_user(name), sys.executable, "-c", f"import imagebuilder, os; os.listdir({str(store / 'files')!r})"]
            )
        except ImagebuilderError:
            continue
        return name
    return None


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
