"""`dns`: the records to publish, and whether they are."""

import json
import textwrap
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from ipaddress import ip_address

from imagebuilder.commands.files import Files
from imagebuilder.dns.published import ROOTS, Finding, NameServers, State, findings
from imagebuilder.dns.records import Record, reverse_records, zone_of, zone_records, zone_text, zones
from imagebuilder.errors import ExitStatus
from imagebuilder.run import say
from imagebuilder.topology import Topology, load_public_keys, load_topology

WIDTH = 100
"""Columns that a reason is folded to."""


def arguments(parser: ArgumentParser) -> None:
    """Declare what `dns` takes."""
    parser.add_argument("--table", action="store_true", help="print a table that says what each record is for")
    parser.add_argument("--check", action="store_true", help="ask the responsible name servers; 1 if mail would fail")
    parser.add_argument(
        "--server", type=address, action="append", default=[], metavar="ADDRESS",
        help="ask this name server, not those that the parent zone names (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--root", type=address, action="append", default=[], metavar="ADDRESS",
        help="find name servers from this root server on, not from the Internet's (repeatable)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=53, help="port of every name server (default: 53)")


def address(text: str) -> str:
    """Return *text* when it is an IP address."""
    try:
        return str(ip_address(text))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no IP address") from None


def run(args: Namespace) -> int:
    """Print the zones, a table of them, or what of them is missing."""
    topology = load_topology(args.topology)
    public = load_public_keys(Files(args.topology).public, topology)
    published, reverse = zone_records(topology, public), reverse_records(topology)
    if args.check:
        servers = NameServers(tuple(args.server), tuple(args.root) or ROOTS, args.port)
        return report(findings((*published, *reverse), servers), topology, servers, as_json=args.json)
    if args.json:
        print(json.dumps([facts(record, topology) for record in (*published, *reverse)], indent=2))
    else:
        print(table((*published, *reverse)) if args.table else paste(published, reverse, topology), end="")
    return ExitStatus.OK


def paste(published: Sequence[Record], reverse: Sequence[Record], topology: Topology) -> str:
    """Return every zone in BIND's format, and as comments what others publish."""
    origins = zones(topology)
    parts = []
    for origin in origins:
        inside = [record for record in published if zone_of(record.owner, origins) == origin]
        if inside:
            parts.append(f"; --- {spoken(origin)} ---\n{zone_text(inside, origin)}")
    lines = ["; --- the reverse zone, which the provider of the addresses has: set it in his panel ---"]
    lines += [f"; {record.why}\n; {record}" for record in reverse]
    return "\n".join([*parts, "\n".join(lines)]) + "\n"


def spoken(name: str) -> str:
    """Return *name* as people write it, with its ASCII form when that differs."""
    try:
        written = name.encode("ascii").decode("idna")
    except UnicodeError:
        return name
    return name if written == name else f"{name} ({written})"


def table(records: Iterable[Record]) -> str:
    """Return *records* for reading, each with its reason."""
    lines = []
    for record in records:
        weight = "required" if record.required else "recommended"
        lines.append(f"{record.owner.rstrip('.')}  {record.type}  ({weight})")
        lines += textwrap.wrap(record.text, WIDTH, initial_indent="    ", subsequent_indent="    ")
        lines += textwrap.wrap(record.why, WIDTH, initial_indent="    why: ", subsequent_indent="         ")
    return "\n".join(lines) + "\n"


def facts(record: Record, topology: Topology) -> dict[str, object]:
    """Return *record* for machines."""
    return {"zone": zone_of(record.owner, zones(topology)), **asdict(record)}


def report(found: Sequence[Finding], topology: Topology, servers: NameServers, *, as_json: bool) -> int:
    """Say how each record stands, print the lines that are missing, and return the exit status."""
    if as_json:
        rows = [
            {**facts(each.record, topology), "state": each.state, "said": each.said, "fatal": each.fatal}
            for each in found
        ]
        print(json.dumps(rows, indent=2))
    else:
        for each in found:
            say(f"{each.state:8} {each.record.owner} {each.record.type}{': ' if each.said else ''}{each.said}")
        print(missing(found), end="")
        for advice in advices(found, servers):
            say(advice)
    return ExitStatus.FAILED if any(each.fatal for each in found) else ExitStatus.OK


def missing(found: Iterable[Finding]) -> str:
    """Return the lines to publish, those without which mail fails first; empty when all are there."""
    lacking = [each for each in found if each.state is not State.GOOD]
    text = ""
    for title, fatal in (
        ("required: mail fails, or is distrusted, until these are right", True),
        ("recommended", False),
    ):
        chosen = [each for each in lacking if each.fatal is fatal]
        if chosen:
            text += f"; {title}\n"
            text += "".join(f"; {each.state}: {each.said}; {each.record.why}\n{each.record}\n" for each in chosen)
    return text


def advices(found: Sequence[Finding], servers: NameServers) -> list[str]:
    """Return what else the operator may want to know."""
    owners = [each.record.owner for each in found if each.record.type == "TLSA"]
    zones_found = [zone for owner in owners if not servers.fixed and (zone := servers.zone_of(owner))]
    return [
        f"advice: sign the zone {zone.name.to_text(omit_final_dot=True)} (DNSSEC): nobody heeds its TLSA record before"
        for zone in zones_found
        if not zone.signed
    ]
