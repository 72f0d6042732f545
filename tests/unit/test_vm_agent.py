"""The shell's protocol, spoken with the very bash script that runs in the machines, over a socket instead of a port."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from imagebuilder.vm.agent import SHELL, TIMED_OUT, Agent, AgentError, Completed, at_port


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent whose shell runs on this machine."""
    path = tmp_path / "shell"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    folder = tmp_path / "folder"
    folder.mkdir()
    agent = Agent(partial(at_port, path))
    agent.connect()
    served, _ = listener.accept()
    with served, listener:
        shell = subprocess.Popen(
            ["bash", "-c", SHELL],
            stdin=served.fileno(),
            stdout=served.fileno(),
            env={"BED_FOLDER": str(folder), "PATH": os.environ["PATH"]},
        )
        assert agent.wait_for_hello(timeout_s=10)
        yield agent
        shell.kill()
        shell.wait()
    agent.close()


def test_every_byte_comes_back_as_it_was(agent: Agent) -> None:
    done = agent.run(r"for i in {0..255}; do printf \\x$(printf %x $i); done; printf '\0\n\0' >&2", timeout_s=10)

    assert done.stdout == bytes(range(256))
    assert done.stderr == b"\0\n\0"
    assert done.status == 0


def test_twenty_megabytes_come_back_whole(agent: Agent) -> None:
    done = agent.run("head -c 20000000 /dev/zero | tr '\\0' x", timeout_s=30)

    assert done.stdout == b"x" * 20_000_000


def test_a_script_of_a_megabyte_is_run(agent: Agent) -> None:
    done = agent.run(f"text='{'y' * 1_000_000}'; echo ${{#text}}", timeout_s=30)

    assert done.text == "1000000\n"


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_exit_status_is_the_scripts(agent: Agent, status: int) -> None:
    assert agent.run(f"exit {status}", timeout_s=10).status == status


def test_a_script_that_takes_too_long_is_killed_with_its_children(agent: Agent, tmp_path: Path) -> None:
    started = time.monotonic()

    done = agent.run(f"echo before; (sleep 3; touch {tmp_path}/late) | cat; echo after", timeout_s=0.5)

    assert done.status == TIMED_OUT
    assert done.stdout == b"before\n"
    assert time.monotonic() - started < 2.5
    time.sleep(3.5)
    assert not (tmp_path / "late").exists()


def test_a_script_that_lets_the_clock_jump_is_answered_as_any_other(agent: Agent) -> None:
    """The clock of this machine stays; that so long a patience is taken at all is what is seen here."""
    assert agent.run("echo here; exit 3", timeout_s=10, clock_jumps=True) == Completed(3, b"here\n", b"")


def test_the_shell_goes_on_after_a_timeout(agent: Agent) -> None:
    agent.run("sleep 60", timeout_s=0.2)

    assert agent.run("echo again", timeout_s=10).text == "again\n"


def test_a_script_can_not_change_the_shell_of_the_next(agent: Agent) -> None:
    agent.run("cd /usr; name=value; set -e; exec 1>&2; false", timeout_s=10)

    assert agent.run("pwd; echo ${name-unset}; false; echo on", timeout_s=10).text == "/\nunset\non\n"


def test_what_a_script_leaves_running_does_not_delay_its_answer(agent: Agent) -> None:
    started = time.monotonic()

    done = agent.run("sleep 5 & echo started", timeout_s=10)

    assert done.text == "started\n"
    assert time.monotonic() - started < 2


def test_a_syntax_error_is_a_failed_script_and_not_a_dead_shell(agent: Agent) -> None:
    assert agent.run("if then", timeout_s=10).status != 0
    assert agent.run("echo alive", timeout_s=10).text == "alive\n"


def test_standard_input_is_empty(agent: Agent) -> None:
    assert agent.run("cat; echo done", timeout_s=10).text == "done\n"


def test_scripts_from_several_threads_get_their_own_answers(agent: Agent) -> None:
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = agent.run(f"echo {number}", timeout_s=20).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {number: f"{number}\n" for number in range(8)}


def test_a_shell_that_is_gone_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="socket"):
        Agent(partial(at_port, tmp_path / "nothing")).connect()
