"""What only one host may know is nowhere else: not in a log, not in the arguments of what runs."""

# ruff: noqa: D103 (the name of a test is its sentence)

from pathlib import Path

import pytest

from imagebuilder.secrets.vault import named
from imagebuilder.vm.canaries import piece
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.session import Session

pytestmark = pytest.mark.settled


def pieces(bed: Session) -> dict[str, bytes]:
    """Return the piece of each secret of both hosts, and of each password."""
    values = named(bed.subject.secrets) | {f"passwords/{who}": word for who, word in bed.passwords.items()}
    return {name: piece(name, value) for name, value in values.items()}


def test_no_secret_is_in_a_journal_or_on_a_console(pair: Pair, bed: Session) -> None:
    for machine in pair.machines.values():
        said = machine.journal().encode() + machine.console().encode()
        assert {name for name, part in pieces(bed).items() if part in said} == set()


def test_no_secret_is_in_the_arguments_of_this_machines_processes(pair: Pair, bed: Session) -> None:
    wanted = pieces(bed)
    for process in Path("/proc").iterdir():
        for file in ("cmdline", "environ") if process.name.isdecimal() else ():
            try:
                content = (process / file).read_bytes()
            except OSError:
                continue
            assert {name for name, part in wanted.items() if part in content} == set(), process / file
