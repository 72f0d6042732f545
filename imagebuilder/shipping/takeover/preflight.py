"""Whether a running Linux can be taken over, judged before anything is touched. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
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
SPARE_BYTES = 100 * 2**20
"""Room beside the unpacked installer: for what it is sent as, and for the old system until that has ended."""
SOFT_REBOOT_SYSTEMD = 254
"""The first with a soft-reboot."""
RESCUE = "boot the provider's rescue system, and upload to that"


class Way(StrEnum):
    """How the old system is left."""

    KEXEC = "kexec"
    """Its kernel starts that of the installer."""
    SOFT_REBOOT = "soft-reboot"
    """Its kernel stays, and its systemd goes on in the installer's tree when everything else has ended."""


@dataclass(frozen=True)
class Wanted:
    """What a machine is to become."""

    proxy: Proxy
    disk_bytes: int
    """The smallest disk that the image can go to."""
    drivers: frozenset[str]
    """What the image's kernel has."""
    unpacked_bytes: int
    """What the installer's files hold."""
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
    way: Way


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
    way, kexec = _way(facts)
    problems = [*_machine(facts, FREE_BYTES if way is Way.KEXEC else wanted.unpacked_bytes + SPARE_BYTES)]
    problems += [Problem("kexec", kexec)] if kexec and way is Way.KEXEC and not facts.container else []
    disk, said = _disk(facts, wanted, way)
    problems += [Problem("disk", said)] if said else []
    network: Network | None = None
    remarks: list[str] = []
    carries = False
    try:
        network = network_of(facts)
        card, settings = uplink(facts)
        if way is Way.SOFT_REBOOT and settings is not card:
            problems.append(Problem("network", f"its addresses are those of {settings.name}, which only kexec ends"))
        problems += _drivers(facts, wanted, card, disk)
        told, remarks, carries = _network(network, wanted)
        problems += told
    except NoNetworkError as error:
        problems.append(Problem("network", str(error)))
    stays = [f"kexec: {kexec}; the system is left by soft-reboot, and its kernel stays until the new one starts"]
    remarks += stays if way is Way.SOFT_REBOOT else []
    return Judgement(tuple(problems), (*remarks, *_port_25(facts)), disk, network, carries, way)


def _machine(facts: Facts, free_bytes: int) -> Iterator[Problem]:
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
    elif facts.free_bytes < free_bytes:
        said = f"{facts.free_bytes / 2**20:,.0f} MiB are free, {free_bytes / 2**20:,.0f} are needed: stop something"
        yield Problem("memory", said)
    if facts.secure_boot:
        yield Problem("firmware", "Secure Boot is on, and the image is not signed: switch it off at the provider's")
    if facts.missing:
        yield Problem("programs", f"it lacks {', '.join(facts.missing)}")


def _way(facts: Facts) -> tuple[Way, str]:
    """Return how the machine is left, and what keeps it from being left by kexec; empty: nothing does."""
    if not facts.can_kexec:
        kexec = "its kernel was built without it"
    elif facts.kexec_disabled:
        kexec = "it is switched off until the next start (kernel.kexec_load_disabled is 1)"
    elif facts.lockdown in ("integrity", "confidentiality"):
        kexec = f"its kernel is locked down ({facts.lockdown})"
    else:
        return Way.KEXEC, ""
    if facts.systemd < SOFT_REBOOT_SYSTEMD:
        there = f"there is {facts.systemd}" if facts.systemd else "there is none"
        return Way.KEXEC, f"{kexec}, and a soft-reboot in its place takes systemd {SOFT_REBOOT_SYSTEMD}: {there}"
    if facts.enforcing:
        # The policy stays with the kernel, and knows no label of the installer's files.
        return Way.KEXEC, f"{kexec}, and SELinux is in the way of a soft-reboot in its place: setenforce 0"
    return Way.SOFT_REBOOT, kexec


def _disk(facts: Facts, wanted: Wanted, way: Way) -> tuple[Disk | None, str]:
    """Return the disk that is overwritten, and what is the matter if there is none."""
    unused = tuple(_as_if_left(disk, way) for disk in facts.disks)
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


def _as_if_left(disk: Disk, way: Way) -> Disk:
    """Return *disk* as it is once the system that runs from it is gone."""
    # What is made of it (LVM, RAID, encryption) is the kernel's, and stays with that.
    return replace(disk, mounted=(), used_by=() if way is Way.KEXEC else disk.used_by)


def _drivers(facts: Facts, wanted: Wanted, card: Card, disk: Disk | None) -> Iterator[Problem]:
    # The image's kernel is what counts. An old kernel that stays has both in use already, which
    # is all that an upload needs; its other modules are gone with its root.
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
