"""Two runs of the bed at the same time, from one store: each has a world and a pair of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.nightly]

LIMIT_S = 1500
"""For a boot of the pair, when none is kept, which the other run waits for."""
TALK = """
date +%s.%N
exec 5<>/dev/tcp/$IMAGEBUILDER_MAIL_HOST/25
head -c 4 <&5
echo
sleep 20
printf 'QUIT\\r\\n' >&5
grep -c '^221 ' <&5
date +%s.%N
"""


def test_two_pairs_run_side_by_side_and_both_answer(pytestconfig: pytest.Config) -> None:
    topology = pytestconfig.getoption("--topology")
    if topology is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("--topology names none")
    argv = [sys.executable, "-m", "imagebuilder", "boot", "--topology", str(Path(topology)), "--from", "user"]
    runs = [
        subprocess.Popen(
            [*argv, "--", "bash", "-c", TALK], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        said = [run.communicate(timeout=LIMIT_S) for run in runs]
    finally:
        for run in runs:
            run.kill()

    assert [run.returncode for run in runs] == [0, 0], said
    (began, ended), (other_began, other_ended) = (times(out.decode()) for out, _ in said)
    assert max(began, other_began) < min(ended, other_ended), "they did not run at the same time"


def times(said: str) -> tuple[float, float]:
    """Return when a run of TALK began and ended, which got the greeting and the farewell of a mail server."""
    began, greeting, farewells, ended = said.split()
    assert (greeting, farewells) == ("220", "1"), said
    return float(began), float(ended)
