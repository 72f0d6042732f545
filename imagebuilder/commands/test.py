"""`test`: boot both images on a virtual network and prove that mail is delivered."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path

from imagebuilder.commands.deployed import deployed_arguments, deployment_of, require_sense
from imagebuilder.commands.files import Files
from imagebuilder.commands.report import write_page
from imagebuilder.commands.sources import source_arguments, the_store
from imagebuilder.commands.subject import subject_of, topology_key
from imagebuilder.errors import ExitStatus
from imagebuilder.run import say
from imagebuilder.runs.attestation import attest, refusal
from imagebuilder.runs.history import History, durations
from imagebuilder.runs.record import Outcome, Record, Verdict, group_of, sentence_of
from imagebuilder.statements.signing import SigningKey, configured_signing_key
from imagebuilder.store.hashing import sha256_of
from imagebuilder.vm.acceptance import Orders, WrongTestsError, collect, run_deployed, run_scenarios
from imagebuilder.vm.denylist import read_denylist
from imagebuilder.vm.plugin import SCENARIOS
from imagebuilder.vm.recording import record_of
from imagebuilder.vm.tested import Tested


def arguments(parser: ArgumentParser) -> None:
    """Declare what `test` takes."""
    parser.add_argument("-k", dest="expression", metavar="EXPR", help="only the tests that match, as pytest has it")
    parser.add_argument(
        "--jobs",
        type=_whole(1, 16),
        default=1,
        metavar="N",
        help="run N sessions side by side, each with a world and a pair of its own (3 GiB of memory each)",
    )
    parser.add_argument(
        "--reruns",
        type=_whole(0, 9),
        default=0,
        metavar="N",
        help="try a failed test up to N times more; told as flaky",
    )
    parser.add_argument("--list", action="store_true", help="print which tests would run, and boot nothing")
    parser.add_argument("--until-failure", action="store_true", help="go on, round after round, until a test fails")
    parser.add_argument(
        "--pdb",
        action="store_true",
        help="stop at a failure in the debugger, the machines on; `bed` opens their prompt",
    )
    parser.add_argument("--keep", action="store_true", help="let the machines' disks stay in the folder of the run")
    parser.add_argument("--generation", type=int, metavar="N", help="test generation N, not what the topology says now")
    parser.add_argument(
        "--sign-with", type=Path, metavar="FILE", help="sign what a passed run says with this OpenSSH Ed25519 key"
    )
    deployed_arguments(parser)
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Build what is missing, run the acceptance tests, keep their record, and print what was seen."""
    files, history = Files(args.topology), History(the_store())
    key = configured_signing_key(args.sign_with)
    require_sense(args)
    if args.generation is None and not args.list and not args.deployed:
        files.read()  # what is wrong with the operator's files is told before anything else
    if args.pdb and args.jobs > 1:
        raise WrongTestsError("a debugger has one terminal, and --jobs asks for several", hint="leave one of them out")
    orders = orders_of(args, files, history)
    collected = collect(orders)
    if args.list:
        print(json.dumps(list(collected.selected), indent=2) if args.json else behaviours(collected.selected))
        return ExitStatus.OK
    if not collected.selected:
        say("no test is left to run" if collected.all else "there are no tests")
        return ExitStatus.FAILED
    subject: Tested
    if args.deployed:
        subject, origin = deployment_of(args)
        run_tests = partial(run_deployed, subject)
    else:
        subject, origin = subject_of(args, keep=args.keep)
        run_tests = partial(run_scenarios, subject)
    started = datetime.now(UTC)
    seen = run_tests(orders, collected)
    record = record_of(subject, origin, orders, collected, seen, started, datetime.now(UTC))
    history.keep(record, subject.folder)
    say(f"report: {write_page(history, record, subject.folder)}")
    for note in record.notes:
        say(f"note: {note}")
    proof = proven(history, record, subject, key)
    told = facts(record, subject.folder, proof) if args.json else table(record, subject)
    print(json.dumps(told, indent=2) if args.json else told)
    if seen.stopped:
        return ExitStatus.STOPPED
    return ExitStatus.FAILED if record.verdict is Verdict.FAILED else ExitStatus.OK


def orders_of(args: Namespace, files: Files, history: History) -> Orders:
    """Return how the tests are to be run."""
    own = files.tests.resolve()
    return Orders(
        expression=args.expression,
        roots=(SCENARIOS, own) if own.is_dir() and files.topology.exists() else (SCENARIOS,),
        jobs=args.jobs,
        gentle=args.deployed,
        reruns=args.reruns,
        until_failure=args.until_failure,
        pytest_arguments=("--pdb",) if args.pdb else (),
        denylist=read_denylist(files.denylist, datetime.now(UTC).date()),
        durations=durations(history.all(topology_key(files, history.store))) if args.jobs > 1 else {},
    )


def proven(history: History, record: Record, subject: Tested, key: SigningKey | None) -> Path | None:
    """Attest that the images passed, if they did, all of it; return the attestation, or say why there is none."""
    why = refusal(record)
    for role, image in () if why else subject.images.items():
        if sha256_of(image.path) != image.sha256:
            why = f"the {role} image is not what was built: {image.path}"
    if why:
        say(f"not attested: {why}")
        return None
    path = attest(history.store, record, key)
    say(f"attested{'' if key else ' (unsigned: name a key by --sign-with or IMAGEBUILDER_SIGNING_KEY)'}: {path}")
    return path


def behaviours(tests: Sequence[str]) -> str:
    """Return *tests* as prose, by the files that they stand in. Pure."""
    lines: list[str] = []
    for group, members in groupby(tests, key=group_of):
        lines += ["", f"### {group.capitalize()}", ""] if lines else [f"### {group.capitalize()}", ""]
        lines += [f"- {sentence_of(name)}" for name in members]
    return "\n".join(lines)


def facts(record: Record, folder: Path, proof: Path | None) -> dict[str, object]:
    """Return the outcome for machines."""
    told = {"folder": str(folder), "verdict": record.verdict, "attestation": str(proof) if proof else None}
    return told | record.model_dump(mode="json")


def table(record: Record, subject: Tested) -> str:
    """Return the outcome for people."""
    lines = ["", "images"]
    for role, image in record.images.items():
        lines.append(f"  {role:7} {subject.images[role].path}")
        lines.append(f"          SHA-256 {image.sha256}, {image.size_bytes / 2**20:,.0f} MiB")
    if record.mail_ready_s is not None:
        lines.append(f"boot ({record.accelerator})")
        for role, seconds in record.settled_s.items():
            lines.append(f"  {role:7} {seconds:6.1f} s until every unit had started")
        lines.append(f"  pair    {record.mail_ready_s:6.1f} s until mail flowed")
    for message in record.messages:
        lines.append(
            f"message {message.subject!r}, {message.seconds:.1f} s from {message.sender} to {message.recipient}"
        )
        lines += [f"  {hop.text}" for hop in message.hops]
    for test in record.tests:
        if test.outcome in (Outcome.FAILED, Outcome.FLAKY, Outcome.DENIED):
            lines.append(f"{test.outcome}: {test.sentence}")
            lines += [f"  {line}" for line in (*test.reason.splitlines()[:3], test.tracker) if line]
    counts = ", ".join(f"{record.counts[outcome]} {outcome}" for outcome in Outcome if record.counts[outcome])
    lines.append(f"tests: {counts} in {record.seconds:.0f} s; details in {subject.folder}")
    why = f": {'; '.join(record.left_out)}" if record.verdict is Verdict.PARTIAL else ""
    lines.append(f"verdict: {record.verdict}{why}")
    return "\n".join(lines)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return read
