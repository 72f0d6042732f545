"""`upload`: a tested image, with its host's secrets, to a disk of a rescue system or to where a provider imports it."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from imagebuilder.commands.cargo import Cargo, cargo_arguments, cargo_of
from imagebuilder.commands.flash import confirm
from imagebuilder.commands.sources import the_store
from imagebuilder.commands.status import WAIT_S, looked_at, reported
from imagebuilder.commands.takeover import foretold, made_ready, options_of, takeover_arguments
from imagebuilder.errors import ExitStatus
from imagebuilder.run import say
from imagebuilder.shipping import gate
from imagebuilder.shipping.courier import courier
from imagebuilder.shipping.disks import Disk, NoDiskError, candidates, refusal
from imagebuilder.shipping.far_disk import far_disks, restart
from imagebuilder.shipping.formats import Format, format_of, shaped
from imagebuilder.shipping.objects import Stored, WrongUrlError, put, shown
from imagebuilder.shipping.provision import needed_bytes
from imagebuilder.shipping.remote import Address, Shell, connected, parse_address
from imagebuilder.shipping.transfer import Tally, upload
from imagebuilder.topology import Role, load_topology


def arguments(parser: ArgumentParser) -> None:
    """Declare what `upload` takes."""
    cargo_arguments(parser)
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="[ssh://][user@]host[:port] of a rescue system, or for a proxy of any running Linux; or the URL of an "
        "object (s3, gs, ftp, https …)",
    )
    parser.add_argument("--device", metavar="DEVICE", help="the disk over there; left out: the topology's, or the only")
    parser.add_argument("--yes", action="store_true", help="don't ask")
    parser.add_argument("--identity", type=Path, metavar="FILE", help="private key to log in with")
    parser.add_argument("--known-hosts", type=Path, metavar="FILE", help="file with the rescue system's host key")
    parser.add_argument("--no-reboot", action="store_true", help="leave the rescue system running")
    parser.add_argument("--no-wait", action="store_true", help="don't wait until the new system does its work")
    takeover_arguments(parser)
    parser.add_argument("--format", type=Format, choices=tuple(Format), help="of an object; left out: by its name")


def run(args: Namespace) -> int:
    """Upload, and print what was done."""
    scheme = urlsplit(args.target).scheme if "://" in args.target else "ssh"
    return to_disk(args, parse_address(args.target)) if scheme == "ssh" else to_object(args)


def to_disk(args: Namespace, bare: Address) -> int:
    """Write a disk of the machine at *bare*, which is made a rescue system first unless it is one."""
    address = Address(bare.host, bare.user, bare.port, identity=args.identity, known_hosts=args.known_hosts)
    agree = (lambda _: None) if args.yes else confirm
    with courier(the_store(), str(address)) as who:
        ready = made_ready(address, cargo_of(args), options_of(args), agree)
        if args.dry_run and ready.way is not None:
            return foretold(ready.way, as_json=args.json)
        cargo = ready.cargo
        with connected(address) as shell:
            disk = ready.disk or chosen(far_disks(shell), wanted_disk(args, cargo), cargo, address)
            say(f"{address.host} has {disk}")
            if args.dry_run:
                print(f"{address.host} is a rescue system: {disk.path} would be overwritten")
                return ExitStatus.OK
            if ready.disk is None:
                agree(disk)
            then = None if args.no_reboot else restart
            done = upload(cargo.on_disk(disk.size_bytes), first(shell, address), disk.path, who=who, then=then)
    shipment = gate.record(cargo.cleared, where=f"{disk} at {address}")
    result = {"host": str(address), "device": str(disk.path), **asdict(done), **asdict(shipment)}
    print(json.dumps(result, indent=2, default=str) if args.json else told(cargo, disk, address, done))
    if args.no_reboot or args.no_wait:
        return ExitStatus.OK
    say(f"{address.host} starts anew; if it comes up in the rescue system again, switch that off in the console")
    return reported(looked_at(cargo.cleared.generation, args.role, None, wait_s=WAIT_S), as_json=args.json)


def first(shell: Shell, address: Address) -> Callable[[], AbstractContextManager[Shell]]:
    """Return what gives *shell*, and at every later call a new one at *address*."""
    there = [shell]

    @contextmanager
    def connect() -> Iterator[Shell]:
        if there:
            yield there.pop()
        else:
            with connected(address) as new:
                yield new

    return connect


def wanted_disk(args: Namespace, cargo: Cargo) -> str | None:
    """Return the disk that the operator names here or in the topology."""
    if args.device or args.role is not Role.PROXY:
        return str(args.device) if args.device else None
    named = load_topology(cargo.cleared.generation.topology).proxy.boot_disk
    return str(named) if named else None


def chosen(found: tuple[Disk, ...], wanted: str | None, cargo: Cargo, address: Address) -> Disk:
    """Return that of *found* which is to be overwritten; raise NoDiskError when it must not be, or none is meant."""
    needed = needed_bytes(cargo.cleared.image)
    whole = [disk for disk in found if disk.part_of is None and disk.kind in ("disk", "loop")]
    if wanted is not None:
        disk = next((one for one in found if wanted in (str(one.path), one.name)), None)
        if disk is None:
            listed = "; ".join(map(str, whole)) or "none"
            raise NoDiskError(f"{address.host} has no {wanted}", hint=f"its disks: {listed}")
        if why := refusal(disk, needed_bytes=needed):
            raise NoDiskError(
                f"{disk.path} of {address.host} is not overwritten: {why}",
                hint="start the provider's rescue system, or name another disk: --device DEVICE",
            )
        return disk
    fit = candidates(found, needed_bytes=needed)
    if len(fit) == 1:
        return fit[0]
    if fit:
        raise NoDiskError(f"{address.host} has several disks: {'; '.join(map(str, fit))}", hint="--device DEVICE")
    why = "; ".join(f"{one.name}: {refusal(one, needed_bytes=needed)}" for one in whole if one.kind == "disk")
    raise NoDiskError(
        f"{address.host} has no disk that may be overwritten{f' ({why})' if why else ''}",
        hint="start the provider's rescue system, which runs from no disk",
    )


def told(cargo: Cargo, disk: Disk, address: Address, done: Tally) -> str:
    """Return what was done, for people."""
    image, seconds = cargo.cleared.image, max(done.write_s, 1e-9)
    return (
        f"{disk.path} of {address.host} is the {image.role} of generation {cargo.cleared.generation.number}: "
        f"{done.written_bytes / 2**20:,.0f} MiB written in {done.write_s:,.0f} s "
        f"({done.written_bytes / seconds / 1e6:,.0f} MB/s), as {done.sent_bytes / 2**20:,.0f} MiB sent, "
        f"{done.kept_bytes / 2**20:,.0f} MiB kept from before, all read back"
    )


def to_object(args: Namespace) -> int:
    """Write an object for a provider to import."""
    form = args.format or format_of(urlsplit(args.target).path)
    if form is None:
        raise WrongUrlError(
            f"the name {shown(args.target)} doesn't say which form it has", hint=f"--format {'|'.join(Format)}"
        )
    cargo = cargo_of(args)
    say(
        f"warning: this object holds the private keys of the {args.role}, and whoever reads it can be the {args.role}: "
        "let nobody but the import read it, keep it out of public buckets, and remove it once it was imported"
    )
    with courier(the_store(), shown(args.target)), shaped(cargo.on_disk(), form, cargo.tools) as object_:
        stored = put(object_, args.target)
    shipment = gate.record(cargo.cleared, where=f"{stored.url} ({form})")
    result = {"format": form, **asdict(stored), **asdict(shipment), "sha256": stored.sha256}
    print(json.dumps(result, indent=2, default=str) if args.json else stored_line(cargo, form, stored))
    return ExitStatus.OK


def stored_line(cargo: Cargo, form: Format, stored: Stored) -> str:
    """Return what was stored, for people."""
    image, compared = cargo.cleared.image, "read back" if stored.read_back else "not read back"
    return (
        f"{stored.url} is the {image.role} of generation {cargo.cleared.generation.number} as {form}: "
        f"{stored.size_bytes / 2**20:,.0f} MiB, SHA-256 {stored.sha256}, {compared}"
    )
