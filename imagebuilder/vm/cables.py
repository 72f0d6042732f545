"""What the machines' network cards are plugged into: taps, or raw sockets where nobody may make taps. Owns both.

A tap needs /dev/net/tun, which belongs to root on many machines. A raw socket needs nothing but a network of our own:
the cable is then a pair of virtual Ethernet devices. One end is in the machine's network, under the name that a tap
would have, so that all faults of links work on it. The other end is in a network where nothing else is, and a raw
socket that is opened there reads and writes whole frames. QEMU takes no such socket (net/dgram.c knows Internet and
Unix ones only), so a small process carries the frames between it and QEMU.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import environment
from imagebuilder.vm import pump
from imagebuilder.vm.namespace import NETWORKS, entered, new_network
from imagebuilder.vm.qemu import Cable

TUN = Path("/dev/net/tun")
VARIABLE = "IMAGEBUILDER_CABLES"
"""Names the kind of cables; unset: what this machine allows."""
FAR_ENDS = "far-ends"
"""The network of the ends that QEMU's sockets are bound to; no host is there."""
QUEUE_BYTES = 4 << 20
"""Frames that may wait for QEMU; a tap holds a thousand."""

ETH_P_ALL = 0x0003  # linux/if_ether.h
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23  # linux/if_packet.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_STXCSUM, ETHTOOL_STSO = 0x17, 0x1F  # linux/ethtool.h


class UnknownCableError(ImagebuilderError):
    """There is no such kind of cable."""

    status = ExitStatus.WRONG_INPUT


def find_cable(wanted: str | None = None) -> Cable:
    """Return the kind of cable that is *wanted* or, left out, the best that can be made here; call it in a namespace.

    Raises ImagebuilderError with one sentence when it can't be had.
    """
    wanted = os.environ.get(VARIABLE, "") if wanted is None else wanted
    if wanted and wanted not in list(Cable):
        raise UnknownCableError(f"{VARIABLE} is {wanted!r}", hint=f"one of: {', '.join(Cable)}")
    no_tap = _tap_refusal()
    if wanted == Cable.TAP and no_tap:
        raise ImagebuilderError(
            f"{TUN} can't be opened ({no_tap}), and {VARIABLE} asks for taps",
            hint=f"sudo chmod 0666 {TUN}, or {VARIABLE}={Cable.PACKET}, or run as root",
        )
    if wanted == Cable.TAP or not (wanted or no_tap):
        return Cable.TAP
    if no_packet := _packet_refusal():
        more = f", and neither can {TUN} be opened ({no_tap})" if no_tap else ""
        raise ImagebuilderError(
            f"this machine gives nobody a raw socket ({no_packet}){more}: the machines can't be connected",
            hint=f"run as root, or: sudo chmod 0666 {TUN}",
        )
    return Cable.PACKET


def _tap_refusal() -> str | None:
    try:
        with TUN.open("r+b", buffering=0):
            return None
    except OSError as error:
        return error.strerror


def _packet_refusal() -> str | None:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        return error.strerror
    return None


def devices_of(cables: Sequence[Cable]) -> tuple[Path, ...]:
    """Return the folders of devices that QEMU, or ip, must see for *cables*. Pure."""
    return (TUN.parent,) if Cable.TAP in cables else ()


def cable_orders(cable: Cable, device: str) -> list[str]:
    """Return what makes *device*, an end of a *cable*, in ip's language; FAR_ENDS has to be there. Pure."""
    if cable is Cable.TAP:
        return [f"tuntap add dev {device} mode tap vnet_hdr"]
    return [f"link add {device} type veth peer name {device} netns {NETWORKS / FAR_ENDS}"]


def far_end_orders(devices: Sequence[str]) -> list[str]:
    """Return what switches on the far ends of *devices*, in ip's language; these have no address at all. Pure."""
    return [order for device in devices for order in (f"link set {device} addrgenmode none", f"link set {device} up")]


def new_far_ends() -> None:
    """Make the network FAR_ENDS."""
    new_network(FAR_ENDS)


def finish_frames(network: str, device: str) -> None:
    """Let whoever sends by *device* of *network* complete each frame: nobody behind it would.

    By default the kernel leaves checksums, and cutting what is large into packets, to the card.
    """
    with entered(network), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for feature in (ETHTOOL_STXCSUM, ETHTOOL_STSO):
            order = ctypes.create_string_buffer(struct.pack("=II", feature, 0))
            request = struct.pack("16sP16x", device.encode(), ctypes.addressof(order))
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def plug_in(device: str) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """Return QEMU's end of the cable *device*, and the process that carries its frames while QEMU has it open."""
    # Not datagrams: of these, the kernel lets ten wait.
    ours, machines = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, far_end(device) as wire:
        ends = (wire.fileno(), ours.fileno())
        argv = [sys.executable, "-I", pump.__file__, *map(str, ends)]
        return machines, subprocess.Popen(argv, env=environment(), stdin=subprocess.DEVNULL, pass_fds=ends)


def far_end(device: str) -> socket.socket:
    """Return a socket by which whole frames leave and arrive at the far end of *device*."""
    with entered(FAR_ENDS):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        try:
            raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
        except PermissionError:  # a right that older kernels give to the host's own root alone
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
        raw.bind((device, ETH_P_ALL))
    except BaseException:
        raw.close()
        raise
    return raw
