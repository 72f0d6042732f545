"""The part of `upload` that a running Linux needs first: judged, shown, and made a rescue system in its own memory."""

import json
import secrets
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.build.installer import Installer, build_installer
from imagebuilder.build.toolchain import build_tools
from imagebuilder.commands.cargo import Cargo
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.fetch import fetch
from imagebuilder.run import say
from imagebuilder.shipping.disks import NO_DISKS, Disk, NoDiskError
from imagebuilder.shipping.far_disk import far_disks
from imagebuilder.shipping.provision import needed_bytes
from imagebuilder.shipping.remote import Address, LostError, Shell, connected
from imagebuilder.shipping.takeover import facts as facts_of
from imagebuilder.shipping.takeover.itinerary import Itinerary
from imagebuilder.shipping.takeover.network import CREDENTIAL, settings_file
from imagebuilder.shipping.takeover.passage import (
    arrive,
    is_installer,
    leave,
    load,
    require_released,
    sent_bytes,
    settings_of,
    stay,
)
from imagebuilder.shipping.takeover.preflight import UnfitError, Wanted, judged
from imagebuilder.store.folder import Store, Used
from imagebuilder.topology import Role, Topology, load_topology

PATIENCE_MIN = 10
"""Minutes that the installer waits for us."""
START_S = 300
"""Seconds that the old system may take to stop, and the installer to start, beside its patience."""


@dataclass(frozen=True)
class Options:
    """What the operator says of a take-over."""

    disk: Path | None = None
    keep_network: bool = False
    port_25: str | None = None
    dry_run: bool = False


def options_of(args: Namespace) -> Options:
    """Return what *args* say of it."""
    disk = Path("/dev", args.device) if args.device else None
    return Options(disk, args.keep_network, args.port_25, args.dry_run)


@dataclass(frozen=True)
class Ready:
    """A machine that can be written to, and what it gets."""

    cargo: Cargo
    disk: Disk | None = None
    """Agreed upon, when the machine was taken over."""
    way: Itinerary | None = None
    """How it was taken over, or would be."""


def takeover_arguments(parser: ArgumentParser) -> None:
    """Declare what a running Linux needs beside."""
    parser.add_argument("--dry-run", action="store_true", help="look, say what is in the way and what would be done")
    parser.add_argument(
        "--keep-network",
        action="store_true",
        help="give the new system the addresses and routers that a running Linux has, whatever the topology says",
    )
    parser.add_argument("--port-25", metavar="HOST", help="try from there whether this host's port 25 is reached")


def made_ready(address: Address, cargo: Cargo, options: Options, agree: Callable[[Disk], None]) -> Ready:
    """Make the machine at *address* one whose disk can be written, which a rescue system is already.

    *agree* is asked before a running Linux is left, and raises when it had better not be.
    """

    def connect() -> AbstractContextManager[Shell]:
        return connected(address)

    proxy = load_topology(cargo.cleared.generation.topology).proxy
    named = options.disk or (Path(proxy.boot_disk) if proxy.boot_disk else None)
    with connect() as shell:
        if not is_running_from(far_disks(shell), named):
            if options.keep_network:
                raise NoDiskError(f"{address.host} is a rescue system: its settings are not worth keeping")
            if is_installer(shell) and not options.dry_run:
                stay(shell)
            return Ready(cargo)
        if cargo.cleared.image.role is not Role.PROXY:
            raise NoDiskError(
                f"{address.host} runs from its disk, and only a proxy is made of a running Linux",
                hint="start a rescue system from another medium, or flash the client's disk",
            )
        installer = installer_of(cargo, the_store())
        way = itinerary(shell, cargo, installer, options)
    if options.dry_run:
        return Ready(cargo, way=way)
    disk = require_fit(way)
    say(way.text())
    agree(disk)
    cargo = take_over(connect, cargo, installer, way)
    with connect() as shell:
        disk = same_disk(far_disks(shell), disk)
        require_released(shell, disk.path)
        stay(shell)
    return Ready(cargo, disk, way)


def is_running_from(disks: tuple[Disk, ...], named: Path | None = None) -> bool:
    """Return whether a machine with *disks* runs from the disk *named*, or from any if none is. Pure.

    Rescue systems run from memory, from a file in it, from a disk in the network, or from one that nobody names.
    """
    return any(
        "/" in disk.mounted
        and disk.kind != "loop"
        and not str(disk.path).startswith(NO_DISKS)
        and named in (None, disk.path, disk.part_of)
        for disk in disks
    )


def installer_of(cargo: Cargo, store: Store) -> Installer:
    """Return the installer that belongs to the generation of *cargo*, built unless the store has it."""
    plan = Files(cargo.cleared.generation.topology).plan()
    store.use(Used(frozenset({str(plan.tools), str(plan.installer)})))
    if not store.has(plan.installer):
        say("building the installer, which later take-overs use again")
        fetch(store, plan.lock.packages, sources_of_environment(), states=plan.lock.states)
    return build_installer(store, build_tools(store, plan), plan)


def itinerary(shell: Shell, cargo: Cargo, installer: Installer, options: Options) -> Itinerary:
    """Return what taking over the machine at *shell* means; nothing is changed there."""
    topology: Topology = load_topology(cargo.cleared.generation.topology)
    facts = facts_of.facts(shell.text(facts_of.script(port_25=options.port_25)))
    image = cargo.cleared.image
    wanted = Wanted(
        topology.proxy,
        needed_bytes(image),
        installer.drivers,
        installer.unpacked_bytes,
        disk=options.disk,
        keep_network=options.keep_network,
    )
    judgement = judged(facts, wanted)
    return Itinerary(
        where=str(shell.address),
        image=f"the {image.role} of generation {cargo.cleared.generation.number}",
        facts=facts,
        judgement=judgement,
        installer_bytes=sent_bytes(installer, judgement.way),
        image_bytes=cargo.on_disk().data_bytes(),
        patience_min=PATIENCE_MIN,
    )


def foretold(way: Itinerary, *, as_json: bool) -> int:
    """Print *way*; raise UnfitError when it leads nowhere."""
    print(json.dumps(way.told(), indent=2, default=str) if as_json else way.text())
    require_fit(way)
    return ExitStatus.OK


def require_fit(way: Itinerary) -> Disk:
    """Return the disk that is going to be overwritten; raise UnfitError when the machine can't be taken over."""
    if way.judgement.problems or way.judgement.disk is None:
        raise UnfitError(way.where, way.judgement.problems)
    return way.judgement.disk


def take_over(
    connect: Callable[[], AbstractContextManager[Shell]],
    cargo: Cargo,
    installer: Installer,
    way: Itinerary,
) -> Cargo:
    """Make the machine that *connect* gives a shell at a rescue system; return what its disk is then to get.

    Raises ImagebuilderError when it did not get that far: it is the old system then, or returns to it by itself.
    """
    judgement = way.judgement
    assert judgement.network is not None, "require_fit was asked first"
    run = secrets.token_hex(8)
    keys = load_topology(cargo.cleared.generation.topology).admin.ssh_keys
    with connect() as shell:
        settings = settings_of(judgement.network, run=run, patience_min=PATIENCE_MIN, keys=keys)
        folder = load(shell, installer, settings, judgement.way)
        say("the installer is loaded: the old system shuts down")
        with suppress(LostError):  # when it is quick
            leave(shell, folder, judgement.way)
    arrive(connect, run, within_s=PATIENCE_MIN * 60 + START_S)
    if not judgement.carries_network:
        return cargo
    return cargo.also(CREDENTIAL, settings_file(judgement.network, fixed=False).encode())


def same_disk(found: tuple[Disk, ...], before: Disk) -> Disk:
    """Return that of *found*, in the installer, which is *before*; raise ImagebuilderError when none is. Pure."""
    for disk in found:
        if (disk.path, disk.size_bytes, disk.serial) == (before.path, before.size_bytes, before.serial):
            return disk
    raise ImagebuilderError(
        f"the installer does not see {before.path} as it was ({before.size_bytes:,} bytes): nothing was written",
        hint="the machine returns to its old system by itself",
    )
