import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import ProcessError, end, run


def alive(pid: int) -> bool:
    """Say whether the process is there, and not only its entry that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.05)


def started(code: str, pid_file: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """Run *code* in a Python of its own, and return it with the number that a child of it writes to *pid_file*."""
    runner = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not pid_file.exists() or not pid_file.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return runner, int(pid_file.read_text())


def test_a_process_that_does_not_listen_is_ended_all_the_same() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"

        end(process, politely_s=0.2)

    assert process.returncode == -signal.SIGKILL


def test_a_process_that_listens_ends_by_itself() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        end(process, politely_s=10)

    assert process.returncode == -signal.SIGTERM


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(ImagebuilderError, match="no program 'frobnicate'"):
        run(["frobnicate", "--now"])


def test_a_failure_carries_the_end_of_what_was_said_under_the_name_known() -> None:
    with pytest.raises(ProcessError, match=r"mkosi ended with status 3\n  so it is") as caught:
        run(["sh", "-c", "echo so it is >&2; exit 3"], name="mkosi")

    assert caught.value.output == "so it is\n"


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ImagebuilderError, match="did not end within 1 s"):
        run(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"], timeout_s=1)

    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_when_we_are_killed_so_is_what_we_run(tmp_path: Path) -> None:
    code = f"from imagebuilder.run import run; run(['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 60'])"
    runner, child = started(code, tmp_path / "pid")

    runner.kill()
    runner.communicate()

    wait_until_gone(child)


def test_an_interruption_ends_what_threads_run_and_begins_nothing_more(tmp_path: Path) -> None:
    code = (
        "from imagebuilder.run import run, Workers\n"
        f"def work(n): run(['sh', '-c', f'echo $$ > {tmp_path}/pid{{n}}; exec sleep 60'])\n"
        "with Workers(max_workers=1) as pool:\n"
        "    list(pool.map(work, ['', '2', '3']))\n"
    )
    runner, child = started(code, tmp_path / "pid")

    began = time.monotonic()
    os.kill(runner.pid, signal.SIGINT)
    _, said = runner.communicate(timeout=20)

    assert time.monotonic() - began < 10
    assert b"KeyboardInterrupt" in said
    wait_until_gone(child)
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_an_interruption_that_reaches_another_thread_is_heeded_all_the_same() -> None:
    code = (
        "import signal, threading\n"
        "from imagebuilder.run import run, Workers\n"
        "def work(_):\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGINT)\n"
        "    run(['sleep', '60'])\n"
        "with Workers(max_workers=1) as pool:\n"
        "    list(pool.map(work, [1]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=30, check=False)

    assert ended.returncode
    assert b"KeyboardInterrupt" in ended.stderr


def test_an_interruption_while_a_thread_begins_lets_it_run_nothing(tmp_path: Path) -> None:
    code = (
        "import threading, time\n"
        "from imagebuilder.run import run, Workers\n"
        "start = threading.Thread.start\n"
        "def interrupted(thread):\n"
        "    start(thread)\n"
        "    raise KeyboardInterrupt\n"
        "threading.Thread.start = interrupted\n"
        "def work(_):\n"
        "    time.sleep(1)\n"
        f"    run(['sh', '-c', 'touch {tmp_path}/begun; exec sleep 60'])\n"
        "with Workers(max_workers=1) as pool:\n"
        "    list(pool.map(work, [1]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=30, check=False)

    assert b"KeyboardInterrupt" in ended.stderr
    assert list(tmp_path.iterdir()) == []
