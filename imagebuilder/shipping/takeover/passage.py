"""The way from a running Linux into the installer: sent, loaded, entered, found again. Runs scripts there.

Until the installer is entered, nothing of the running system is touched but a folder in its memory. The installer
returns to that system by itself when nobody comes; whoever writes stops that clock first.
"""

import io
import shlex
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from imagebuilder.build.installer import Installer
from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import say
from imagebuilder.shipping.progress import Progress
from imagebuilder.shipping.remote import LostError, RemoteError, Shell
from imagebuilder.shipping.takeover.network import Network, settings_file
from imagebuilder.shipping.takeover.preflight import Way

RUN_FILE = "etc/imagebuilder/run"
"""Where the installer says which run it belongs to."""
COMMAND_LINE = (
    # It stays in its initrd: there is no root to switch to.
    "rdinit=/usr/lib/systemd/systemd",
    "console=tty0",
    "console=ttyS0,115200",
    "quiet",
    # Whatever goes wrong here, the old system is still on the disk.
    "panic=30",
    "oops=panic",
    "systemd.firstboot=no",
    # Nothing here is ever updated, so nothing has to be made anew for it.
    "systemd.condition_needs_update=no",
)
PLACES = ("/dev/shm", "/run", "/tmp", "/var/tmp", "/root")
"""Where the installer waits to be loaded, those in memory first."""
PIECE_BYTES = 2**20
LOOK_S = 3.0
"""Seconds between two looks whether the installer is there."""
HELD_S = 20
"""Longest wait for the kernel to let go of a disk, which udev too looks at for a moment."""
WRITTEN_BYTES = 64 * 2**20
"""What an unpacked installer may write into its own tree, and what files lose as they take whole pages."""

FORGET = r"""
while grep -q '^imagebuilder /run/nextroot ' /proc/mounts; do umount /run/nextroot || break; done
rmdir /run/nextroot 2>/dev/null || true
"""
"""Takes an unpacked installer away, which an ordinary reboot would enter as well (systemd 256)."""

STAGE = r"""(
set -eu
for place in @PLACES@; do
    rm -rf "$place"/imagebuilder.??????
    folder=$(mktemp -d "$place/imagebuilder.XXXXXX" 2>/dev/null) || continue
    printf '#!/bin/sh\n' >"$folder/probe"
    chmod 0700 "$folder/probe"
    room=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
    if [ "$room" -ge @ROOM_KB@ ] && "$folder/probe" 2>/dev/null; then
        printf '%s\n' "$folder"
        exit 0
    fi
    rm -r "$folder"
done
echo "there is no folder with room for @ROOM_KB@ kB from which programs can be run"
exit 1
)"""
"""Prints the folder that everything goes to: in memory if there is room."""

IDENTITY = r"""(
set -eu
cd @FOLDER@
umask 022
settings=$(sshd -T -C user=root,host=localhost,addr=127.0.0.1 2>/dev/null || sshd -T 2>/dev/null || true)
mkdir -p tree/etc/ssh/sshd_config.d tree/etc/ssh/authorized_keys.d
said() { printf '%s\n' "$settings" | sed -n "s/^$1 //p"; }
keys=$(said hostkey)
for key in ${keys:-/etc/ssh/ssh_host_*_key}; do
    [ -f "$key" ] || continue
    cp "$key" tree/etc/ssh/
    chmod 0600 "tree/etc/ssh/${key##*/}"
    echo "HostKey /etc/ssh/${key##*/}"
done >tree/etc/ssh/sshd_config.d/old.conf
[ -s tree/etc/ssh/sshd_config.d/old.conf ] || { echo "it has no host key in the form of OpenSSH"; exit 1; }
said hostcertificate | while read -r file; do
    [ ! -f "$file" ] || { cp "$file" tree/etc/ssh/ && echo "HostCertificate /etc/ssh/${file##*/}"; }
done >>tree/etc/ssh/sshd_config.d/old.conf
said port | sed 's/^/Port /' >>tree/etc/ssh/sshd_config.d/old.conf
files=$(said authorizedkeysfile)
for file in ${files:-.ssh/authorized_keys .ssh/authorized_keys2}; do
    file=$(printf '%s\n' "$file" | sed "s|%h|$HOME|g; s|%u|root|g; s|%%|%|g")
    case $file in /*) ;; *) file=$HOME/$file ;; esac
    [ ! -f "$file" ] || { cat "$file"; echo; }
done >>tree/etc/ssh/authorized_keys.d/root
grep -q '^[^#]' tree/etc/ssh/authorized_keys.d/root || { echo "root has no authorized key there"; exit 1; }
cd tree
find . | ../ld.so --library-path .. ../cpio --quiet -o -H newc -R 0:0 >../initrd
)"""
"""Packs what is this machine's own, as the beginning of an initrd: its keys never leave it."""

LOAD = r"""(
set -eu
cd @FOLDER@
./ld.so --library-path . ./kexec --kexec-syscall-auto --load vmlinuz --initrd=initrd --command-line=@COMMAND_LINE@
[ "$(cat /sys/kernel/kexec_loaded)" = 1 ] || { echo "its kernel did not keep the installer"; exit 1; }
rm -r vmlinuz initrd tree
)"""

UNPACK = rf"""(
set -eu
cd @FOLDER@
{FORGET}
mkdir -p /run/nextroot
mount -t tmpfs -o mode=0755,size=@SIZE@ imagebuilder /run/nextroot
grep -q '^imagebuilder /run/nextroot ' /proc/1/mounts || {{ echo "process 1 sees other mounts than a login"; exit 1; }}
unpack() {{
    ./ld.so --library-path . ./cpio --quiet --extract --make-directories --unconditional --directory=/run/nextroot
}}
# As from one initrd: of two files of the same name the installer's stays.
unpack <initrd
./ld.so --library-path . ./zstd -dc installer | unpack
# What COMMAND_LINE says to a kernel that is started: nothing has to be made anew.
touch /run/nextroot/etc/.updated /run/nextroot/var/.updated
rm -r @FOLDER@
)"""

LEAVE = r"""
if [ -d /run/systemd/system ]; then
    systemctl --no-block kexec
else
    (sleep 1; sync; echo u >/proc/sysrq-trigger; cd @FOLDER@; ./ld.so --library-path . ./kexec --exec) >/dev/null 2>&1 &
fi
"""

SOFT_REBOOT = rf"""(
systemctl --no-block soft-reboot || {{ {FORGET} exit 1; }}
)"""

HELD = r"""(
# Swap that the old system found no room to empty.
swapoff -a 2>/dev/null || true
seconds=@SECONDS@
# Busy is a disk too of which a file system is left that is mounted nowhere to be seen, as by a process that lived on.
while blockdev --rereadpt @DISK@ 2>&1 | grep -q -i busy; do
    [ $seconds -gt 0 ] || { echo held; break; }
    seconds=$((seconds - 1))
    sleep 1
done
)"""

Connect = Callable[[], AbstractContextManager[Shell]]


class PassageError(ImagebuilderError):
    """The installer was not reached; the old system is whole."""


def settings_of(network: Network, *, run: str, patience_min: int, keys: tuple[str, ...]) -> dict[str, str]:
    """Return the files that the installer has for this one run, by path. Pure."""
    return {
        # Before those that the old system has left in /run.
        "etc/systemd/network/00-uplink.network": settings_file(network, fixed=True),
        "etc/systemd/system/give-up.timer.d/patience.conf": f"[Timer]\nOnActiveSec=\nOnActiveSec={patience_min}min\n",
        "etc/ssh/authorized_keys.d/root": "".join(f"{key}\n" for key in keys),
        RUN_FILE: f"{run}\n",
    }


def stage_script(room_bytes: int, places: tuple[str, ...] = PLACES) -> str:
    """Return the script that finds a folder with so much room among *places*. Pure."""
    return STAGE.replace("@ROOM_KB@", str(room_bytes // 1024)).replace("@PLACES@", shlex.join(places))


def parts(installer: Installer, way: Way) -> dict[str, Path]:
    """Return what is sent of *installer* beside its kit, by the name that it is appended to over there. Pure."""
    if way is Way.SOFT_REBOOT:
        return {"installer": installer.initrd}
    return {"vmlinuz": installer.kernel, "initrd": installer.initrd}


def sent_bytes(installer: Installer, way: Way) -> int:
    """Return how much is sent of *installer*, its kit with it."""
    return sum(path.stat().st_size for path in (installer.kit, *parts(installer, way).values()))


def load(shell: Shell, installer: Installer, settings: Mapping[str, str], way: Way) -> str:
    """Send *installer* and have it loaded; return the folder over there. The system there goes on as before."""
    total = sent_bytes(installer, way)
    folder = shell.text(stage_script(total * 5 // 4))
    place = shlex.quote(folder)
    progress = Progress(f"sending the installer to {shell.address}", total)
    sent = 0

    def pieces(content: bytes) -> Iterator[bytes]:
        nonlocal sent
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]
            sent += len(content[start : start + PIECE_BYTES])
            progress.reached(sent)

    def send(content: bytes, rest: str) -> None:
        shell.text(f"take {len(content)} {rest}", feed=pieces(content))

    try:
        send(installer.kit.read_bytes(), f"| tar -xf - -C {place}")
        send(_archive(settings), f"| tar -xf - -C {place}")
        shell.text(IDENTITY.replace("@FOLDER@", place))
        for name, path in parts(installer, way).items():
            send(path.read_bytes(), f">>{place}/{name}")
        progress.end()
        if way is Way.SOFT_REBOOT:
            script = UNPACK.replace("@SIZE@", str(installer.unpacked_bytes + WRITTEN_BYTES))
        else:
            script = LOAD.replace("@COMMAND_LINE@", shlex.quote(" ".join(COMMAND_LINE)))
        shell.text(script.replace("@FOLDER@", place))
    except RemoteError:
        _clear(shell, place)
        raise
    return folder


def leave(shell: Shell, folder: str, way: Way) -> None:
    """Let the machine shut its system down in good order and enter the installer."""
    shell.text(SOFT_REBOOT if way is Way.SOFT_REBOOT else LEAVE.replace("@FOLDER@", shlex.quote(folder)))


def arrive(connect: Connect, run: str, *, within_s: float) -> None:
    """Return once the installer of *run* answers; raise PassageError when it does not."""
    began = told = time.monotonic()
    last = "nothing yet"
    while time.monotonic() - began < within_s:
        try:
            with connect() as shell:
                if shell.text(f"cat /{RUN_FILE} 2>/dev/null || true").strip() == run:
                    say(f"the installer answers after {time.monotonic() - began:.0f} s")
                    return
            last = "the old system still answers"
        except RemoteError as error:
            last = str(error)
        if time.monotonic() - told > 15:
            told = time.monotonic()
            say(f"awaiting the installer for {told - began:.0f} of {within_s:.0f} s: {last}")
        time.sleep(LOOK_S)
    raise PassageError(
        f"the installer did not answer within {within_s:.0f} s: {last}",
        hint="nothing was written: the machine returns to its old system by itself",
    )


def require_released(shell: Shell, disk: Path) -> None:
    """Return once nothing of the old system uses *disk*; raise PassageError when something goes on doing so."""
    if shell.text(HELD.replace("@DISK@", shlex.quote(str(disk))).replace("@SECONDS@", str(HELD_S))) == "held":
        raise PassageError(
            f"the old system's kernel does not let go of {disk}: nothing was written",
            hint="the machine returns to its old system by itself",
        )


def stay(shell: Shell) -> None:
    """Stop the clock by which the installer returns to the old system: it is about to be overwritten."""
    shell.text("systemctl stop give-up.timer")


def go_back(connect: Connect) -> None:
    """Let the installer return to the old system at once, if it still can be told so."""
    with suppress(LostError), connect() as shell:
        shell.text("systemctl --no-block reboot")


def is_installer(shell: Shell) -> bool:
    """Say whether the machine runs an installer of ours already."""
    return shell.text(f"[ ! -e /{RUN_FILE} ] || echo yes") == "yes"


def _clear(shell: Shell, place: str) -> None:
    """Remove what was sent, if there is still a way to."""
    try:
        shell.text(f"rm -rf {place}{FORGET}")
    except RemoteError:
        say(f"{shell.address} still has {place}, of which nothing is used")


def _archive(settings: Mapping[str, str]) -> bytes:
    """Return *settings* as a tar archive of files below ``tree``. Pure."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, text in sorted(settings.items()):
            file = tarfile.TarInfo(str(Path("tree", path)))
            file.mode, file.size = 0o644, len(text.encode())
            archive.addfile(file, io.BytesIO(text.encode()))
    return buffer.getvalue()
