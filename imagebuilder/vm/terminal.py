"""The operator's terminal on a machine's own one: every key goes there, until Ctrl-]. Owns the terminal meanwhile."""

import contextlib
import os
import select
import socket
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from imagebuilder.errors import ImagebuilderError

LEAVE = b"\x1d"
"""Ctrl-], as in telnet and virsh."""


def attach(console: Path, keyboard: int = 0, screen: int = 1) -> None:
    """Connect a terminal, *keyboard* and *screen*, with the socket *console* until Ctrl-] or the machine's end."""
    if not os.isatty(keyboard):
        raise ImagebuilderError("a shell needs a terminal", hint="name a line to run instead: proxy LINE")
    with socket.socket(socket.AF_UNIX) as machine:
        try:
            machine.connect(str(console))
        except OSError as error:
            raise ImagebuilderError(f"the machine's console can't be reached: {error.strerror}") from error
        columns, rows = os.get_terminal_size(screen)
        kind = os.environ.get("TERM", "vt100")
        machine.sendall(f"\x15stty rows {rows} cols {columns}; export TERM={kind}\r".encode())
        with _raw(keyboard):
            _copy(keyboard, screen, machine)


def _copy(keys: int, screen: int, machine: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([keys, machine.fileno()], [], [])
        if machine.fileno() in ready:
            shown = machine.recv(1 << 16)
            if not shown:
                return
            os.write(screen, shown)
        if keys in ready:
            typed = os.read(keys, 1024)
            before, left, _ = typed.partition(LEAVE)
            machine.sendall(before)
            if left or not typed:
                return


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Take each key as it is; the terminal is as before afterwards."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)  # what was typed ahead is the machine's, too
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
