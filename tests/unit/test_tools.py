from pathlib import Path

from imagebuilder.tools import Clock, Tools

CLOCK = Clock(Path("/lib/libfaketime.so.1"), "+400d")


def test_a_program_believes_in_the_machines_own_time() -> None:
    assert "LD_PRELOAD" not in Tools(Path("/t")).argv(["date"])


def test_a_clock_of_its_own_is_loaded_into_the_program_alone() -> None:
    argv = Tools(Path("/t"), CLOCK).argv(["date"])

    place = argv[argv.index("LD_PRELOAD") + 1]
    assert argv[argv.index(place) - 2 : argv.index(place)] == ["--ro-bind", "/lib/libfaketime.so.1"]
    assert argv[argv.index("FAKETIME") - 1 : argv.index("FAKETIME") + 2] == ["--setenv", "FAKETIME", "+400d"]
    assert argv[-2:] == ["--", "date"]
