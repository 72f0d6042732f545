"""`test`: boot both images on a virtual network and prove that mail is delivered."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict

from imagebuilder.build.image import Image
from imagebuilder.commands.sources import source_arguments
from imagebuilder.commands.subject import subject_of
from imagebuilder.errors import ExitStatus
from imagebuilder.topology import Role
from imagebuilder.vm.runs import Summary, run_scenarios

NOTHING_SELECTED = 5
"""pytest's status when no test matched."""


def arguments(parser: ArgumentParser) -> None:
    """Declare what `test` takes."""
    parser.add_argument("-k", dest="expression", metavar="EXPR", help="only the tests that match, as pytest has it")
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Build what is missing, run the acceptance tests, and print the table of what was seen."""
    subject = subject_of(args)
    summary = run_scenarios(subject, expression=args.expression)
    images = subject.images
    print(json.dumps(facts(images, summary), indent=2, default=str) if args.json else table(images, summary))
    return ExitStatus.OK if summary.status == 0 else ExitStatus.FAILED


def facts(images: Mapping[Role, Image], summary: Summary) -> dict[str, object]:
    """Return the outcome for machines."""
    return {"images": {role: asdict(image) for role, image in images.items()}, "run": asdict(summary)}


def table(images: Mapping[Role, Image], summary: Summary) -> str:
    """Return the outcome for people."""
    lines = ["", "images"]
    for role, image in images.items():
        lines += [f"  {role:7} {image.path}", f"          SHA-256 {image.sha256}, {image.size_bytes / 2**20:,.0f} MiB"]
    if summary.boot:
        lines.append(f"boot ({summary.accelerator})")
        for role, seconds in summary.boot.settled_s.items():
            lines.append(f"  {role:7} {seconds:6.1f} s until every unit had started")
        lines.append(f"  pair    {summary.boot.mail_ready_s:6.1f} s until mail flowed")
    for message in summary.journeys:
        lines.append(
            f"message {message.subject!r}, {message.seconds:.1f} s from {message.sender} to {message.recipient}"
        )
        lines += [f"  {hop}" for hop in message.hops]
    counts = [f"{list(summary.outcomes.values()).count(o)} {o}" for o in ("passed", "failed", "skipped")]
    lines.append(f"tests: {', '.join(counts)} in {summary.seconds:.0f} s; details in {summary.report.parent}")
    if summary.status == NOTHING_SELECTED:
        lines.append("no test matched the expression")
    return "\n".join(lines)
