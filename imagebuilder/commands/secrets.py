"""`secrets`: the private keys of a topology, by name."""

import hashlib
import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from imagebuilder.commands.files import Files
from imagebuilder.commands.init import recipient_arguments
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.init import changed, wanted_recipients
from imagebuilder.run import say
from imagebuilder.secrets.keys import Secrets, public_keys
from imagebuilder.secrets.rotation import LIST_HINT, SecretNameError, imported, needed, removed, rotated
from imagebuilder.secrets.vault import from_document, named, plain_text, read_secrets
from imagebuilder.topology import Topology, load_topology
from imagebuilder.topology.load import parsed_toml

ACTIONS = ("init", "list", "rotate", "remove", "export", "import")
SHIP = "now: build, test, and ship both hosts; until both have the new keys, the tunnel is down and mail waits"
FIRST_PASSWORD = "passwords/"


def arguments(parser: ArgumentParser) -> None:
    """Declare what `secrets` takes."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="init: add what is missing, or encrypt to other keys; rotate: make anew; export, import: one or all",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="as `secrets list` has it: wireguard/proxy")
    recipient_arguments(parser)


def run(args: Namespace) -> int:
    """Do it, and print what was written or asked for."""
    if args.action in ("rotate", "remove") and not args.name:
        raise SecretNameError(f"secrets {args.action} wants a name", hint=LIST_HINT)
    if (args.recipient or args.plain) and args.action != "init":
        raise SecretNameError("--recipient and --plain belong to `secrets init`")
    topology = load_topology(args.topology)
    if args.action == "list":
        print(listing(read_secrets(Files(args.topology).secrets), topology, as_json=args.json))
    elif args.action == "export":
        sys.stdout.write(exported(read_secrets(Files(args.topology).secrets), args.name))
    else:
        wrote = altered(args, topology)
        sys.stdout.write(json.dumps({"wrote": list(map(str, wrote))}) + "\n" if args.json else lines(wrote))
    return ExitStatus.OK


def lines(paths: tuple[Path, ...]) -> str:
    """Return *paths*, one in a line."""
    return "".join(f"{path}\n" for path in paths)


def altered(args: Namespace, topology: Topology) -> tuple[Path, ...]:
    """Do the action of *args* that changes something, and return the files written."""
    name: str = args.name or ""
    match args.action:
        case "init":
            wanted = wanted_recipients(args.topology, topology, args.recipient, plain=args.plain)
            return changed(args.topology, lambda secrets: secrets, recipients=wanted)
        case "rotate":
            wrote = changed(args.topology, lambda secrets: rotated(_there(secrets, args), topology, name))
            say(next_step(name, topology))
            return wrote
        case "remove":
            return changed(args.topology, lambda secrets: removed(_there(secrets, args), topology, name))
    text = sys.stdin.read()
    if name:
        return changed(args.topology, lambda secrets: imported(_there(secrets, args), name, text))
    source = Path("standard input")
    whole = from_document(source, parsed_toml(source, text.encode()))
    return changed(args.topology, lambda _: whole)


def _there(secrets: Secrets | None, args: Namespace) -> Secrets:
    if secrets is None:
        raise ImagebuilderError(f"there are no secrets beside {args.topology} yet", hint="imagebuilder init")
    return secrets


def exported(private: Secrets, name: str | None) -> str:
    """Return the value of *name*, or everything as TOML, which is not for terminals."""
    if name is None:
        if sys.stdout.isatty():
            raise ImagebuilderError("all secrets at once don't go to a terminal", hint="redirect them, or name one")
        return plain_text(private)
    values = named(private)
    if name not in values:
        raise SecretNameError(f"there is no secret {name!r}", hint=LIST_HINT)
    return values[name].rstrip("\n") + "\n"


def listing(private: Secrets, topology: Topology, *, as_json: bool) -> str:
    """Return the name of each secret with what may be seen of it, and whether the topology needs it."""
    wanted, seen = needed(topology), visible(private)
    rows = [{"name": name, "public": seen.get(name, ""), "needed": name in wanted} for name in named(private)]
    if as_json:
        return json.dumps(rows, indent=2)
    width = max((len(str(row["name"])) for row in rows), default=0)
    unused = {True: "", False: "  (not in the topology)"}
    shown = (f"{row['name']:{width}}  {row['public']}{unused[_of_use(row)]}" for row in rows)
    return "\n".join(line.rstrip() for line in shown)


def _of_use(row: dict[str, object]) -> bool:
    return bool(row["needed"]) or str(row["name"]).startswith(("tokens/", FIRST_PASSWORD))


def visible(private: Secrets) -> dict[str, str]:
    """Return the public half of each key of *private* by its name; of DKIM keys, which are long, their SHA-256."""
    public = public_keys(private)
    seen = {f"wireguard/{role}": public.wireguard.of(role) for role in private.wireguard}
    seen |= {f"ssh/{role}": public.ssh.of(role) for role in private.ssh}
    seen |= {"tls": f"TLSA 3 1 1 {public.tls}"} if public.tls else {}
    for domain, selectors in public.dkim.items():
        for selector, key in selectors.items():
            seen[f"dkim/{domain}/{selector}"] = f"SHA-256 {hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return seen


def next_step(name: str, topology: Topology) -> str:
    """Return what the operator does after the rotation of *name*. Pure."""
    table, _, rest = name.partition("/")
    if table == "dkim":
        domain = rest.partition("/")[0]
        return (
            f"now: publish its record (imagebuilder dns); after the old one's time to live, name the new selector "
            f"as dkim_selector of {domain}, build, test and ship; a week later: imagebuilder secrets remove "
            f"dkim/{domain}/OLD"
        )
    if table == "tls":
        return (
            "now: publish the TLSA record (imagebuilder dns) and ship the proxy; senders that check it wait meanwhile"
        )
    if table == "mailboxes":
        return f"the new password is where `imagebuilder init` puts them; it counts once the client is shipped: {rest}"
    return SHIP
