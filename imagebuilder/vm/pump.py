"""Carries frames between two sockets, a cable's far end and QEMU, until one of them is gone. A program of its own.

In the process of the tests it would wait for Python's lock whenever these are busy. It knows nothing of the package.
"""

import contextlib
import os
import select
import socket
import sys

LARGEST = 1 << 16
AT_ONCE = 64
"""Frames that one direction may carry before the other has its turn."""
WAIT_S = 0.2
"""How long a frame may wait for a reader that is busy; then it is lost, as on any wire."""


def carry(source: socket.socket, target: socket.socket) -> bool:
    """Carry what has arrived at *source* to *target*; return whether both are there still."""
    for _ in range(AT_ONCE):
        try:
            frame = source.recv(LARGEST)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        except OSError:  # the device is down for the moment, which is told once
            return True
        if not frame:
            return False
        try:
            send(frame, target)
        except (BrokenPipeError, ConnectionError):
            return False
    return True


def send(frame: bytes, target: socket.socket) -> None:
    """Send *frame*, or lose it."""
    try:
        target.send(frame)
    except BlockingIOError:
        if select.select([], [target], [], WAIT_S)[1]:
            with contextlib.suppress(BlockingIOError):
                target.send(frame)
    except (BrokenPipeError, ConnectionError):
        raise
    except OSError:  # too large for the cable, or no memory for it
        return


def pump(one: socket.socket, other: socket.socket) -> None:
    """Carry frames both ways until an end is gone."""
    ways = {one.fileno(): (one, other), other.fileno(): (other, one)}
    poll = select.poll()
    for descriptor, (source, _) in ways.items():
        source.setblocking(False)
        poll.register(descriptor, select.POLLIN)
    while all(carry(*ways[descriptor]) for descriptor, _ in poll.poll()):
        pass


if __name__ == "__main__":
    # Whoever started us is in the same process table; with it goes everything in the namespace.
    ends = [socket.socket(fileno=os.dup(int(number))) for number in sys.argv[1:3]]
    pump(*ends)
