"""The pinned toolchain: how to run a program of the extracted tools tree, sealed off from the host's. Pure."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOUNT_POINTS = ("bin", "sbin", "lib", "lib64")
"""Links of a merged-/usr system that lead into /usr."""

CLOCK_LIBRARY = "/run/libfaketime.so.1"
"""Where a sandbox has the library of another time."""


@dataclass(frozen=True)
class Clock:
    """Another time for programs: a library that is loaded into them, and what tells it the time."""

    library: Path
    """libfaketime, on the host."""
    offset: str
    """As libfaketime reads it: ``+400d``."""

    def variables(self, place: str) -> tuple[tuple[str, str], ...]:
        """Return the environment of a program that finds the library at *place*."""
        return (
            ("LD_PRELOAD", place),
            ("FAKETIME", self.offset),
            # The dates of files are the kernel's; only the clock itself is changed.
            ("NO_FAKE_STAT", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
        )


@dataclass(frozen=True)
class Tools:
    """The tools tree: mkosi, systemd-repart, erofs-utils, QEMU, nft, knotd, pebble … of locked versions."""

    tree: Path
    """Root of the extracted packages: ``tree / "usr/bin/qemu-system-x86_64"``."""
    clock: Clock | None = None
    """None is the machine's own."""

    def argv(
        self,
        command: Sequence[str],
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
        network: bool = False,
        devices: Sequence[Path] = (),
        over: Sequence[tuple[Path, Path]] = (),
        setenv: Sequence[tuple[str, str]] = (),
        chdir: Path | None = None,
    ) -> list[str]:
        """Return the argv that runs *command* with the tools tree as its /usr and /etc.

        *read* and *write* are host paths, visible inside at the same place; nothing else of the host is, but
        for /proc, *devices* and, with *network*, the caller's network namespace. /tmp and /run are empty.
        """
        sandbox = self.tree / "usr/lib/python3/dist-packages/mkosi/sandbox.py"
        argv = [sys.executable, "-I", str(sandbox), "--become-root"]
        argv += ["--ro-bind", str(self.tree / "usr"), "/usr", "--ro-bind", str(self.tree / "etc"), "/etc"]
        for name in MOUNT_POINTS:
            argv += ["--symlink", f"usr/{name}", f"/{name}"]
        argv += ["--dev", "/dev", "--ro-bind", "/proc", "/proc", "--ro-bind-try", "/sys", "/sys"]
        argv += ["--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", "/var"]
        for path in read:
            argv += ["--ro-bind", str(path), str(path)]
        for path in (*write, *devices):
            argv += ["--bind", str(path), str(path)]
        for source, place in over:
            argv += ["--ro-bind", str(source), str(place)]
        argv += ["--chdir", str(chdir or "/")]
        if network:
            for name in ("resolv.conf", "hosts", "ssl/certs"):
                argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        else:
            argv += ["--unshare-net"]
        environment = {"PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/tmp"}
        if self.clock:
            argv += ["--ro-bind", str(self.clock.library), CLOCK_LIBRARY]
            environment |= dict(self.clock.variables(CLOCK_LIBRARY))
        for name, value in (environment | dict(setenv)).items():
            argv += ["--setenv", name, value]
        return [*argv, "--", *command]
