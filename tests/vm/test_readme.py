"""The lines that the README gives for outside programs, run as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.nightly]

README = Path(__file__).parents[2] / "README.md"
LINES = re.findall(r"^(imagebuilder boot --from .*)$", README.read_text(), re.MULTILINE)
LIMIT_S = 1500
"""For a boot of the pair, when none is kept, and the program."""


def output(program: str, topology: Path | None) -> str:
    """Return what the README's line with *program* in it prints beside *topology*; its status must be 0."""
    if topology is None or shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"--topology names none, or there is no {program} here")
    (line,) = (each for each in LINES if f"'{program} " in each)
    # The topology has the name that a line without -t looks for.
    assert topology.name == "topology.toml"
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=topology.resolve().parent, env=os.environ | {"PATH": search},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_port_scanner_finds_the_doors_of_the_table(pytestconfig: pytest.Config) -> None:
    said = output("nmap", pytestconfig.getoption("--topology"))

    opened = set(map(int, re.findall(r"^(\d+)/tcp +open ", said, re.MULTILINE)))
    assert opened == {22, 25, 80, 443, 587, 993}, said


def test_the_judge_of_tls_finds_new_protocols_alone(pytestconfig: pytest.Config) -> None:
    said = re.sub(r"\x1b\[[\d;]*m", "", output("sslscan", pytestconfig.getoption("--topology")))

    found = dict(re.findall(r"^((?:SSL|TLS)v\S+) +(enabled|disabled)", said, re.MULTILINE))
    assert found == {
        "SSLv2": "disabled", "SSLv3": "disabled", "TLSv1.0": "disabled", "TLSv1.1": "disabled",
        "TLSv1.2": "enabled", "TLSv1.3": "enabled",
    }, said  # fmt: skip


def test_the_prober_of_smtp_gets_its_message_taken(pytestconfig: pytest.Config) -> None:
    said = output("swaks", pytestconfig.getoption("--topology"))

    after_the_end = said.partition(" -> .\n")[2]
    assert re.match(r"<-  +250 ", after_the_end), said
