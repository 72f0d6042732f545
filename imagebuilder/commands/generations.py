"""`generations`: every build of this topology, whether it was tested, and where it went."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from imagebuilder.commands.sources import the_store
from imagebuilder.errors import ImagebuilderError
from imagebuilder.generations import Generation, Generations
from imagebuilder.run import say
from imagebuilder.shipping.gate import has_passed
from imagebuilder.store.folder import Store

DIGEST_DIGITS = 12
"""How much of a digest people get to see."""


def arguments(parser: ArgumentParser) -> None:
    """It takes none but the common ones."""


def run(args: Namespace) -> int:
    """Print the generations, the oldest first."""
    store = the_store()
    generations = Generations(store, args.topology).all()
    told = [facts(generation, tested(store, generation)) for generation in generations]
    if args.json:
        print(json.dumps({"generations": told}, indent=2))
    elif told:
        print("\n".join(line for one in told for line in lines(one)))
    else:
        say(f"nothing was built of {args.topology} yet")
    return 0


def tested(store: Store, generation: Generation) -> str:
    """Say in a word whether these images passed the acceptance tests, or why what says so is not believed."""
    try:
        return "tested" if has_passed(store, generation) else "untested"
    except ImagebuilderError as error:
        return f"untested: {error}"


def facts(generation: Generation, tested: str) -> dict[str, Any]:
    """Return *generation* for machines; *tested* says whether it was."""
    record = generation.record
    return {
        "number": record.number,
        "made": record.made.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "imagebuilder": record.imagebuilder,
        "topology_sha256": record.inputs.get("topology.toml"),
        "lock_sha256": record.inputs.get("topology.lock"),
        "images": {
            role: {"sha256": image.sha256, "root_hash": image.root_hash, "size_bytes": image.size_bytes}
            for role, image in record.images.items()
        },
        "attested": tested == "tested",
        "tested": tested,
        "shipments": generation.shipped(),
        "provenance": str(generation.provenance) if generation.provenance.exists() else None,
        "folder": str(generation.folder),
    }


def lines(told: Mapping[str, Any]) -> list[str]:
    """Return what *facts* gave for people: a line, and one more per shipment."""
    digests = "  ".join(f"{role} {image['sha256'][:DIGEST_DIGITS]}" for role, image in told["images"].items())
    inputs = f"topology {told['topology_sha256'][:8]}  lock {told['lock_sha256'][:8]}"
    made = told["made"].replace("T", " ").removesuffix("Z")
    first = f"{told['number']:4}  {made}  {digests}  {inputs}  {told['tested']}"
    return [first, *(f"      {_shipment(shipment)}" for shipment in told["shipments"])]


def _shipment(shipment: Mapping[str, Any]) -> str:
    role, where, when = (shipment.get(key, "?") for key in ("role", "where", "when"))
    return f"{role} shipped to {where} at {when}"
