"""What goes wrong with a machine from outside, and the list of all faults by name. Talks to QEMU and to the guest."""

import contextlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType

from imagebuilder.dns.records import Record
from imagebuilder.errors import ImagebuilderError
from imagebuilder.topology import Role
from imagebuilder.vm.chassis import Chassis
from imagebuilder.vm.links import Link, NoNetemError
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.qemu import DISK_DEVICE, DISK_NODE
from imagebuilder.vm.qmp import QmpError

FAILING = "disk-failing"
"""Name of the layer over a machine's disk that fails."""
DELAY = "delay"
FILLER = "bed-filler"
"""Name of the file that fills a file system, in its root."""


def slow_disk(machine: Chassis, bytes_per_s: int) -> None:
    """Let the disk of *machine* read and write no more than that; 0: as fast as it can."""
    said = machine.qmp.monitor(f"block_set_io_throttle disk {bytes_per_s} 0 0 0 0 0")
    if said.strip():
        raise ImagebuilderError(f"QEMU did not slow the disk of {machine.name} down: {said.strip()}")


def failing_disk(machine: Chassis, *kinds: str) -> None:
    """Let every "read", "write" or "flush" of the disk of *machine* fail from now on; none named: mend it."""
    path = f"/machine/peripheral/{DISK_DEVICE}"
    # QEMU ends when the node is the one that it has already.
    if any(node["node-name"] == FAILING for node in machine.qmp.command("query-named-block-nodes")):
        machine.qmp.command("qom-set", path=path, property="drive", value=DISK_NODE)
        machine.qmp.command("blockdev-del", node_name=FAILING)
    if kinds:
        errors = [{"event": "none", "iotype": kind, "errno": 5, "immediately": True} for kind in kinds]
        machine.qmp.command("blockdev-add", driver="blkdebug", node_name=FAILING, image=DISK_NODE, inject_error=errors)
        machine.qmp.command("qom-set", path=path, property="drive", value=FAILING)


def full_disk(machine: Machine, mount_point: str = "/var", *, leave_bytes: int = 0) -> None:
    """Fill the file system at *mount_point* of *machine* but for *leave_bytes*."""
    file = shlex.quote(f"{mount_point.rstrip('/')}/{FILLER}")
    machine.succeed(
        f"free=$(df --output=avail -B1 {shlex.quote(mount_point)} | tail -1); "
        f"(( free > {leave_bytes} )) && fallocate -l $(( free - {leave_bytes} )) {file}; "
        # what is reserved for root counts as free for root only
        f"(( {leave_bytes} )) || dd if=/dev/zero of={file}.rest bs=64K status=none 2>/dev/null || true"
    )


def empty_disk(machine: Machine, mount_point: str = "/var") -> None:
    """Take back what `full_disk` did."""
    machine.succeed(f"rm -f {shlex.quote(mount_point.rstrip('/'))}/{FILLER}*")


def jump(machine: Machine, seconds: float) -> None:
    """Let the clock of *machine* be wrong by *seconds*, at once."""
    machine.set_clock(time.time() + seconds)


def delay(machine: Machine, link: Link, milliseconds: int) -> None:
    """Delay what *machine* sends and gets over *link*, its cable, so that an answer takes twice *milliseconds* longer.

    Where the kernel can't, QEMU holds packets back in batches: some wait shorter, none longer.
    """
    with contextlib.suppress(QmpError):  # there was none
        machine.qmp.command("object-del", id=DELAY)
    try:
        link.latency(2 * milliseconds)
    except NoNetemError:
        interval = {"qom-type": "filter-buffer", "id": DELAY, "netdev": "net0", "queue": "all"}
        machine.qmp.command("object-add", **interval, interval=milliseconds * 2000)


@dataclass(frozen=True)
class Fault:
    """Something that can go wrong, for the prompt."""

    usage: str
    """The words that follow its name."""
    what: str
    """What it does, one sentence."""
    apply: Callable[[Pair, Sequence[str]], object]


def apply(pair: Pair, name: str, words: Sequence[str]) -> None:
    """Let the fault *name* happen to *pair*; raise ImagebuilderError with its usage when *words* don't fit it."""
    fault = FAULTS.get(name)
    if fault is None:
        raise ImagebuilderError(f"there is no fault {name!r}", hint=f"one of: {', '.join(FAULTS)}")
    try:
        fault.apply(pair, words)
    except (KeyError, IndexError, ValueError) as error:
        raise ImagebuilderError(f"{name} does not understand {' '.join(words)!r}: {name} {fault.usage}") from error


def _machine(pair: Pair, words: Sequence[str]) -> Machine:
    return pair.machines[Role(words[0])]


def _link(pair: Pair, words: Sequence[str]) -> Link:
    return pair.world.links[words[0]]


def _lie(pair: Pair, words: Sequence[str]) -> None:
    name, address = words[0].rstrip(".") + ".", ip_address(words[1])
    pair.world.dns.lie([Record(name, "A" if address.version == 4 else "AAAA", str(address), "a lie")])


def mend(pair: Pair) -> None:
    """Take back every fault that can be: those of links and names, and of the machines that run."""
    pair.world.mend()
    for machine in pair.machines.values():
        if machine.running:
            slow_disk(machine, 0)
            failing_disk(machine)
            with contextlib.suppress(QmpError):
                machine.qmp.command("object-del", id=DELAY)
            machine.unfreeze()


MACHINE, LINK = "proxy|client", "proxy|client|line|stranger"
FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "power-cut": Fault(MACHINE, "pull the plug", lambda p, w: _machine(p, w).kill()),
        "power-on": Fault(MACHINE, "switch it on again", lambda p, w: _machine(p, w).start()),
        "reset": Fault(MACHINE, "press the reset button", lambda p, w: _machine(p, w).reset()),
        "freeze": Fault(MACHINE, "stop its processor", lambda p, w: _machine(p, w).freeze()),
        "unfreeze": Fault(MACHINE, "let its processor go on", lambda p, w: _machine(p, w).unfreeze()),
        "clock": Fault(f"{MACHINE} SECONDS", "set its clock wrong", lambda p, w: jump(_machine(p, w), float(w[1]))),
        "slow-disk": Fault(
            f"{MACHINE} BYTES-PER-S", "slow its disk down; 0: mend", lambda p, w: slow_disk(_machine(p, w), int(w[1]))
        ),
        "failing-disk": Fault(
            f"{MACHINE} [read] [write] [flush]", "let its disk fail", lambda p, w: failing_disk(_machine(p, w), *w[1:])
        ),
        "full-disk": Fault(f"{MACHINE}", "fill its /var", lambda p, w: full_disk(_machine(p, w))),
        "latency": Fault(
            f"{MACHINE} MS",
            "delay its packets; 0: mend",
            lambda p, w: delay(_machine(p, w), _link(p, w), int(w[1])),
        ),
        "unplug": Fault(LINK, "pull a cable", lambda p, w: _link(p, w).down()),
        "plug": Fault(LINK, "put the cable back", lambda p, w: _link(p, w).up()),
        "loss": Fault(f"{LINK} PERCENT", "lose packets at random", lambda p, w: _link(p, w).loss(float(w[1]))),
        "bandwidth": Fault(
            f"{LINK} KBIT-PER-S", "let no more pass; 0: mend", lambda p, w: _link(p, w).bandwidth(int(w[1]) or None)
        ),
        "only-ip": Fault(
            f"{LINK} 4|6", "let one version of IP pass", lambda p, w: _link(p, w).only({"4": 4, "6": 6}[w[1]])
        ),
        "swallow": Fault(
            f"{LINK} BYTES", "lose larger packets without a word", lambda p, w: _link(p, w).swallow(int(w[1]))
        ),
        "mtu": Fault(f"{LINK} BYTES", "let no larger packet pass", lambda p, w: _link(p, w).mtu(int(w[1]))),
        "line-address": Fault("", "give the home another address", lambda p, _: p.world.line.change_address()),
        "nat-rebind": Fault("", "let the home's router forget its connections", lambda p, _: p.world.line.rebind()),
        "dns-down": Fault("", "let the name servers answer nobody", lambda p, _: p.world.dns.go_down()),
        "dns-lie": Fault("NAME ADDRESS", "let the name servers lie about a name", _lie),
        "acme-down": Fault("", "let the certificate authority be closed", lambda p, _: p.world.authority.close()),
        "acme-error": Fault(
            "WORD …", "let it answer everything with this error", lambda p, w: p.world.authority.refuse(" ".join(w))
        ),
        "mend": Fault("", "take back what can be taken back", lambda p, _: mend(p)),
    }
)
"""All faults, by name."""
