"""Whether a running Linux can be taken over, judged before anything is touched. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ExitStatus, ImagebuilderError, Problem
from imagebuilder.shipping.disks import Disk, candidates, refusal
from imagebuilder.shipping.takeover.facts import Card, Facts
from imagebuilder.shipping.takeover.network import (
    Network,
    NoNetworkError,
    differences,
    is_handed_out,
    known_by_others,
    network_of,
    uplink,
)
from imagebuilder.topology.model import Proxy

MEMORY_BYTES = 900 * 2**20
"""What a machine of 1 GB shows of it, its kernel and what firmware keeps being left out."""
FREE_BYTES = 250 * 2**20
"""Room for the installer twice: as files, and as what the kernel keeps to start from."""
RESCUE = "boot the provider's rescue system, and upload to that"


@dataclass(frozen=True)
class Wanted:
    """What a machine is to become."""

    proxy: Proxy
    disk_bytes: int
    """The smallest disk that the image can go to."""
    drivers: frozenset[str]
    """What the image's kernel has."""
    disk: Path | None = None
    """The disk that the operator names; None: that of the topology, or the only one."""
    keep_network: bool = False
    """Whether the machine's settings are carried over although the topology has its own."""


@dataclass(frozen=True)
class Judgement:
    """What came of it."""

    problems: tuple[Problem, ...]
    """Any of them is enough not to go on."""
    remarks: tuple[str, ...]
    """What the operator should know."""
    disk: Disk | None
    network: Network | None
    carries_network: bool
    """Whether the new system gets the machine's settings beside its own."""


class UnfitError(ImagebuilderError):
    """A machine can't be taken over; all that is in the way is reported at once."""

    status = ExitStatus.FAILED

    def __init__(self, where: str, problems: tuple[Problem, ...]) -> None:
        count = "1 thing is" if len(problems) == 1 else f"{len(problems)} things are"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{where} can't be taken over, {count} in the way:{lines}", hint=f"or {RESCUE}")
        self.problems = problems


def judged(facts: Facts, wanted: Wanted) -> Judgement:
    """Return whether a machine of these *facts* can become what is *wanted*."""
    problems = [*_machine(facts), *_kexec(facts)]
    disk, said = _disk(facts, wanted)
    problems += [Problem("disk", said)] if said else []
    network: Network | None = None
    remarks: list[str] = []
    carries = False
    try:
        network = network_of(facts)
        card, _ = uplink(facts)
        problems += _drivers(facts, wanted, card, disk)
        told, remarks, carries = _network(network, wanted)
        problems += told
    except NoNetworkError as error:
        problems.append(Problem("network", str(error)))
    return Judgement(tuple(problems), (*remarks, *_port_25(facts)), disk, network, carries)


def _machine(facts: Facts) -> Iterator[Problem]:
    if facts.architecture != "x86_64":
        yield Problem("architecture", f"it is {facts.architecture}; the images are for x86_64")
    if facts.uid != 0:
        yield Problem("rights", f"the login is that of user {facts.uid}; it takes root")
    if facts.container:
        yield Problem(
            "virtualisation", f"it is a container ({facts.container}): it has no kernel of its own to replace"
        )
    if facts.memory_bytes < MEMORY_BYTES:
        yield Problem("memory", f"it has {facts.memory_bytes / 2**20:,.0f} MiB; it takes a machine of 1 GB")
    elif facts.free_bytes < FREE_BYTES:
        said = f"{facts.free_bytes / 2**20:,.0f} MiB are free, {FREE_BYTES / 2**20:,.0f} are needed: stop something"
        yield Problem("memory", said)
    if facts.secure_boot:
        yield Problem("firmware", "Secure Boot is on, and the image is not signed: switch it off at the provider's")
    if facts.missing:
        yield Problem("programs", f"it lacks {', '.join(facts.missing)}")


def _kexec(facts: Facts) -> Iterator[Problem]:
    if facts.container:
        return
    if not facts.can_kexec:
        yield Problem("kexec", "its kernel was built without it")
    elif facts.kexec_disabled:
        yield Problem("kexec", "it is switched off until the next start (kernel.kexec_load_disabled is 1)")
    elif facts.lockdown in ("integrity", "confidentiality"):
        yield Problem("kexec", f"its kernel is locked down ({facts.lockdown})")


def _disk(facts: Facts, wanted: Wanted) -> tuple[Disk | None, str]:
    """Return the disk that is overwritten, and what is the matter if there is none."""
    unused = tuple(_as_if_left(disk) for disk in facts.disks)
    named = wanted.disk or wanted.proxy.boot_disk
    if named is not None:
        disk = next((disk for disk in unused if disk.path == Path(named)), None)
        if disk is None:
            return None, f"there is no {named}"
        why = refusal(disk, needed_bytes=wanted.disk_bytes)
        return disk, f"{disk.path}: {why}" if why else ""
    fit = candidates(unused, needed_bytes=wanted.disk_bytes)
    if len(fit) == 1:
        return fit[0], ""
    if fit:
        return None, f"there are several ({', '.join(str(disk.path) for disk in fit)}): name one"
    whole = [disk for disk in unused if disk.kind == "disk"]
    reasons = ((disk.path, refusal(disk, needed_bytes=wanted.disk_bytes)) for disk in whole)
    return None, "; ".join(f"{path}: {why}" for path, why in reasons) or "there is none"


def _as_if_left(disk: Disk) -> Disk:
    """Return *disk* as it is once the system that runs from it is gone."""
    return Disk(
        path=disk.path, kind=disk.kind, size_bytes=disk.size_bytes, model=disk.model, serial=disk.serial,
        transport=disk.transport, sector_bytes=disk.sector_bytes, read_only=disk.read_only, contents=disk.contents,
        part_of=disk.part_of,
    )  # fmt: skip


def _drivers(facts: Facts, wanted: Wanted, card: Card, disk: Disk | None) -> Iterator[Problem]:
    for place, name in (("network", card.name), ("disk", disk.name if disk else "")):
        driver = facts.drivers.get(name)
        if driver and driver not in wanted.drivers:
            yield Problem(place, f"{name} is driven by {driver}, which the image's kernel doesn't have")


def _network(network: Network, wanted: Wanted) -> tuple[list[Problem], list[str], bool]:
    """Return what is wrong, what is worth knowing, and whether the machine's settings are carried over."""
    proxy, other = wanted.proxy, differences(network, wanted.proxy)
    if not network.addresses or not network.routers:
        return [Problem("network", "it has no lasting address with a default route")], [], False
    remarks = list(other)
    if not known_by_others(network, proxy):
        remarks.append("DNS and the client will look for the proxy at the topology's address")
    if wanted.keep_network or (proxy.dhcp and not is_handed_out(network, proxy)):
        return [], [*remarks, "the machine's network settings are carried over"], True
    if other and not proxy.dhcp:
        hint = "correct the topology, or --keep-network"
        return [Problem("network", f"{one}: {hint}") for one in other], [], False
    return [], remarks, False


def _port_25(facts: Facts) -> Iterator[str]:
    if facts.port_25 == "closed":
        yield "port 25 is not reached from there: ask the provider to open it, or mail goes out through a relay only"
    elif facts.port_25 == "unknown":
        yield "port 25 was not tried, as bash or timeout is missing there"
