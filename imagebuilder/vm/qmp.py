"""A small synchronous client of QEMU's machine protocol. Owns one socket."""

import json
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagebuilder.errors import ImagebuilderError

CONNECT_S = 20.0
"""Seconds that a starting QEMU may take to open its socket."""


class QmpError(ImagebuilderError):
    """QEMU refused a command, or is gone."""


class Qmp:
    """A connection to the QEMU that listens on *path*; one command at a time, from any thread."""

    def __init__(self, path: Path, *, timeout_s: float = 60) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._socket = _connected(path)
        self._socket.settimeout(timeout_s)
        self._lines = self._socket.makefile("rb")
        self.events: list[dict[str, Any]] = []
        """What QEMU reported by itself, oldest first."""
        self._read()  # the greeting
        self.command("qmp_capabilities")

    def command(self, name: str, /, **arguments: object) -> Any:  # noqa: ANN401 (JSON: each command its own shape)
        """Run *name* and return what it returned; underscores in argument names become dashes."""
        request: dict[str, object] = {"execute": name}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        with self._lock:
            try:
                self._socket.sendall(json.dumps(request).encode() + b"\n")
            except OSError as error:
                raise QmpError(f"QEMU took no {name}: {error}") from error
            return self._answer(name)

    def monitor(self, line: str) -> str:
        """Run a line of the human monitor and return what it printed."""
        return str(self.command("human-monitor-command", command_line=line))

    def wait_for_migration(self, *, timeout_s: float) -> None:
        """Return when the memory is written or read; raise QmpError when that fails."""
        deadline = time.monotonic() + timeout_s
        while True:
            state: Mapping[str, Any] = self.command("query-migrate")
            status = state.get("status", "none")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise QmpError(f"saving or restoring memory {status}: {state.get('error-desc', 'no reason given')}")
            if time.monotonic() > deadline:
                raise QmpError(f"saving or restoring memory is still {status!r} after {timeout_s:.0f} s")
            time.sleep(0.02)

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        self._lines.close()
        self._socket.close()

    def _answer(self, name: str) -> Any:  # noqa: ANN401
        while True:
            message = self._read()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(f"QEMU refused {name}: {message['error'].get('desc', message['error'])}")
            if "event" in message:
                self.events.append(message)

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise QmpError(f"QEMU does not answer on {self._path.name}: {error}") from error
        if not line:
            raise QmpError(f"QEMU closed {self._path.name}")
        message: dict[str, Any] = json.loads(line)
        return message


def _connected(path: Path) -> socket.socket:
    deadline = time.monotonic() + CONNECT_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise QmpError(f"QEMU did not open {path} within {CONNECT_S:.0f} s: {error}") from error
            time.sleep(0.02)
        else:
            return connection
