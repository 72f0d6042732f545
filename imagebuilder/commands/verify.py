"""`verify`: build again under other circumstances, and tell whether every byte is the same; or look at what shipped."""

import argparse
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.commands.cargo import generation_of
from imagebuilder.commands.claims import claim_arguments, claim_in, claim_line
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_again as made_again
from imagebuilder.commands.recorded import build_recorded, inputs_of
from imagebuilder.commands.sources import source_arguments, sources_of, the_store
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.fetch import Sources
from imagebuilder.generations import Generations
from imagebuilder.run import say
from imagebuilder.shipping.gate import intact, tools_tree
from imagebuilder.shipping.remote import parse_address
from imagebuilder.shipping.residence import differences_on_disk, differences_on_host, resident
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role, load_public_keys
from imagebuilder.verify.circumstances import Circumstances, circumstances
from imagebuilder.verify.rebuild import Verdict, build_again, rebuilt, verdict

SHOWN = 40
"""Differences of an image that a person is shown."""


def arguments(parser: ArgumentParser) -> None:
    """Declare what `verify` takes."""
    parser.add_argument("role", nargs="*", type=Role, metavar="proxy|client", help="which image (default: both)")
    claim_arguments(parser)
    parser.add_argument("--disk", type=Path, metavar="DEVICE", help="compare this disk with a generation instead")
    parser.add_argument("--host", help="compare this running host with a generation instead, by ssh as root")
    parser.add_argument(
        "--generation",
        type=int,
        metavar="N",
        help="which one; left out: the newest. Without a disk and a host: build generation N again, not what the "
        "topology says now",
    )
    source_arguments(parser)
    # The second build is a process of its own, so that it can have a user, a umask and processors of its own.
    parser.add_argument("--again-from", type=Path, help=argparse.SUPPRESS)


def run(args: Namespace) -> int:
    """Compare the images in the store with those of a second build."""
    roles = tuple(dict.fromkeys(args.role)) or tuple(Role)
    if args.disk or args.host:
        return shipped(args, roles)
    store, files = the_store(), Files(args.topology)
    if args.again_from:
        images = build_again(store, files.plan(), sources_of(args), roles, Store(args.again_from))
        print(json.dumps({role: str(image.path) for role, image in images.items()}))
        return ExitStatus.OK
    if args.generation is not None:
        files = Files(Generations(store, files.topology).find(args.generation).topology)
    claim = claim_in(args.provenance, args.trusted_keys, files) if args.provenance else None
    sources = sources_of(args)
    first = first_build(args, store, sources)
    how = circumstances(store.root)
    for what, why in how.fixed.items():
        say(f"not varied: {what}, as {why}")
    with store.workspace() as work:
        again = rebuilt(store, first.inputs, roles, work, how, sources)
        verdicts = {role: verdict(first.images[role].path, again[role], first.tools, work) for role in roles}
    told = facts(verdicts, how)
    refuted: tuple[str, ...] = ()
    if claim is not None:
        refuted = claim.refuted({role: one.digests.disk for role, one in verdicts.items()})
        told["provenance"] = {"confirmed": not refuted, "signed": claim.signed, "refuted": refuted}
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        print("\n".join([text(verdicts), *([claim_line(claim, refuted)] if claim else [])]))
    return ExitStatus.OK if told["identical"] and not refuted else ExitStatus.FAILED


@dataclass(frozen=True)
class First:
    """What the second build is compared with."""

    images: Mapping[Role, Image]
    inputs: Mapping[str, bytes]
    """What both are made from: the operator's files by name."""
    tools: Tools
    """What looks at both."""


def first_build(args: Namespace, store: Store, sources: Sources) -> First:
    """Return the images of the generation that *args* name, or of what the topology says; build what is missing."""
    files = Files(args.topology)
    if args.generation is None:
        built, _ = build_recorded(files, store, sources)
        return First(built.images, inputs_of(files), built.tools)
    generation = Generations(store, files.topology).find(args.generation)
    inputs = generation.inputs()
    images, _ = made_again(generation, store, sources)
    return First(images, inputs, Tools(tools_tree(store, generation)))


def shipped(args: Namespace, roles: tuple[Role, ...]) -> int:
    """Compare what is on a disk or a host with a generation."""
    if len(roles) != 1 or (args.disk and args.host):
        raise WrongPlaceError("a disk or a host has one role", hint="imagebuilder verify proxy --host HOST")
    store, (role,) = the_store(), roles
    generation = generation_of(args, store)
    image = intact(store, generation, role)
    if args.disk:
        found = differences_on_disk(image, args.disk)
    else:
        public = load_public_keys(generation.topology.with_suffix(".public.toml"))
        with resident(parse_address(args.host), role, public.ssh) as shell:
            found = differences_on_host(image, shell)
    where = str(args.disk or args.host)
    if args.json:
        told = {"where": where, "role": role, "generation": generation.number, "differences": found}
        print(json.dumps(told, indent=2))
    elif found:
        print(
            "\n".join((f"{where} is not the {role} of generation {generation.number}:", *(f"  {one}" for one in found)))
        )
    else:
        print(f"{where} is the {role} of generation {generation.number}, but for its secrets and /var")
    return ExitStatus.FAILED if found else ExitStatus.OK


class WrongPlaceError(ImagebuilderError):
    """What is to be compared was not named well."""

    status = ExitStatus.WRONG_INPUT


def facts(verdicts: Mapping[Role, Verdict], how: Circumstances) -> dict[str, object]:
    """Return *verdicts* for machines."""
    return {
        "identical": all(one.identical for one in verdicts.values()),
        "images": {role: {"identical": one.identical, **asdict(one)} for role, one in verdicts.items()},
        "varied": how.varied,
        "not_varied": dict(how.fixed),
    }


def text(verdicts: Mapping[Role, Verdict]) -> str:
    """Return *verdicts* for people: a line per image that is identical, and all differences of one that is not."""
    lines = []
    for role, one in verdicts.items():
        if one.identical:
            of = one.digests
            lines.append(
                f"{role:6}  identical  disk {of.disk}  root hash {of.root_hash}  UKI {of.uki[:16]}  "
                f"initrd {of.initrd[:16]}  {len(of.partitions)} partitions"
            )
        else:
            count = len(one.differences)
            lines.append(f"{role:6}  DIFFERENT, in {count} {'place' if count == 1 else 'places'}:")
            lines += [f"  {difference}" for difference in one.differences[:SHOWN]]
            if count > SHOWN:
                lines.append(f"  … and {count - SHOWN} more: --json has them all")
    return "\n".join(lines)
