"""`status`: whether a host that an image was shipped to runs that image, and does its work."""

import json
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from imagebuilder.commands.cargo import generation_of
from imagebuilder.commands.sources import the_store
from imagebuilder.errors import ExitStatus
from imagebuilder.generations import Generation
from imagebuilder.run import say
from imagebuilder.shipping.arrival import Check, host_checks, mail_checks, way_in
from imagebuilder.shipping.gate import intact
from imagebuilder.shipping.remote import Address, LostError, RemoteError, parse_address
from imagebuilder.shipping.residence import resident
from imagebuilder.topology import Role, load_public_keys, load_topology

WAIT_S = 900
"""As long an upload waits for its host: firmware, first boot, file systems, the other end of the tunnel."""
PAUSE_S = 5


def arguments(parser: ArgumentParser) -> None:
    """Declare what `status` takes."""
    parser.add_argument("role", type=Role, choices=tuple(Role), metavar="ROLE", help="proxy or client")
    parser.add_argument("host", nargs="?", metavar="HOST", help="the proxy's address; left out: the topology's")
    parser.add_argument("--generation", type=int, metavar="N", help="which build it has to be; left out: the newest")
    parser.add_argument("--identity", type=Path, metavar="FILE", help="private key to log in with")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long it may take to be right")


def run(args: Namespace) -> int:
    """Look, and print what was seen; the exit status says whether all is right."""
    generation = generation_of(args, the_store())
    checks = looked_at(generation, args.role, args.host, wait_s=args.wait, identity=args.identity)
    return reported(checks, as_json=args.json)


def looked_at(
    generation: Generation, role: Role, proxy: str | None, *, wait_s: float, identity: Path | None = None
) -> tuple[Check, ...]:
    """Return what is seen of *role* once all is right, or when *wait_s* are over.

    *proxy* is how the proxy is reached, which is also the way to the client; None: at the topology's address.
    """
    deadline, told = time.monotonic() + wait_s, ""
    while True:
        checks = _checks(generation, role, proxy, identity)
        wrong = [check for check in checks if check.right is False]
        if not wrong or time.monotonic() >= deadline:
            return checks
        if (now := f"waiting for the {role}: {wrong[0].name}: {wrong[0].said}") != told:
            told = now
            say(told)
        time.sleep(PAUSE_S)


def _checks(generation: Generation, role: Role, proxy: str | None, identity: Path | None) -> tuple[Check, ...]:
    """Look once."""
    topology = load_topology(generation.topology)
    public = load_public_keys(generation.topology.with_suffix(".public.toml"))
    gate = parse_address(proxy or way_in(topology, Role.PROXY))
    gate = Address(gate.host, gate.user, gate.port, identity=identity)
    host = gate if role is Role.PROXY else Address(way_in(topology, role), identity=identity)
    try:
        with resident(host, role, public.ssh, None if role is Role.PROXY else gate) as shell:
            own = host_checks(intact(the_store(), generation, role), shell)
    except LostError as error:
        # Without an answer nothing else is worth asking.
        return (Check("ssh", False, str(error)),)
    except RemoteError as error:
        own = (Check("ssh", False, f"{error}; {error.hint}" if error.hint else str(error)),)
    else:
        own = (Check("ssh", True, f"{host} shows its key and lets the administrator in"), *own)
    return (*own, *mail_checks(topology, gate.host))


def reported(checks: tuple[Check, ...], *, as_json: bool) -> int:
    """Print *checks*, and return the exit status that they mean."""
    right = all(check.right is not False for check in checks)
    if as_json:
        print(json.dumps({"right": right, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        print("\n".join(map(str, checks)))
    return ExitStatus.OK if right else ExitStatus.FAILED
