"""`sbom`: what an image consists of, and which known vulnerabilities that has."""

import urllib.error
import urllib.request
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.commands.sources import source_arguments, sources_of, the_store
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.fetch import fetch
from imagebuilder.generations import Generation, Generations, NoSuchGenerationError
from imagebuilder.lock.model import parse_lock
from imagebuilder.run import say
from imagebuilder.sbom.bill import Subject, bill
from imagebuilder.sbom.inventory import Stage, components
from imagebuilder.sbom.vulnerabilities import Advisory, Finding, Urgency, WrongDataError, findings, parse, unpacked
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role

MAX_BYTES = 2**28
TIMEOUT_S = 60
URGENCIES = ("low", "medium", "high")


def arguments(parser: ArgumentParser) -> None:
    """Declare what `sbom` takes."""
    parser.add_argument("role", type=Role, choices=list(Role), metavar="ROLE", help=" or ".join(Role))
    parser.add_argument("--generation", type=int, metavar="N", help="of generation N (default: of the latest)")
    parser.add_argument(
        "--vulnerabilities",
        metavar="FILE_OR_URL",
        help="Debian's security data in debsecan's format: list what is known of these packages instead; with --json "
        "it goes into the bill of materials",
    )
    parser.add_argument(
        "--fail-on",
        choices=URGENCIES,
        help="end with status 1 when a vulnerability is of this urgency or more; one not judged yet counts as low",
    )
    source_arguments(parser)


def run(args: Namespace) -> int:
    """Print the bill of materials, or the vulnerabilities."""
    if args.fail_on and not args.vulnerabilities:
        raise WrongDataError("--fail-on needs data to judge by", hint="add --vulnerabilities FILE_OR_URL")
    store = the_store()
    generation = chosen(Generations(store, args.topology), args.generation)
    advisories = advisories_in(args.vulnerabilities) if args.vulnerabilities else ()
    lock = parse_lock(generation.input("topology.lock").decode(), source=f"the lock of generation {generation.number}")
    stage = Stage(args.role, _output(store, generation, f"{args.role}-base"), lock, generation.npm_lock())
    if not store.has(stage.step):
        fetch(store, stage.packages, sources_of(args))
    found = components(store, Tools(store.root / "outputs" / _output(store, generation, "tools")), stage)
    threats = findings(found, advisories)
    if args.vulnerabilities and not args.json:
        report(threats)
    else:
        image = generation.digests[args.role]
        print(bill(Subject(args.role, image, generation.number, lock.epoch, lock.seed), found, threats))
    worst = max((max(threat.urgency, Urgency.LOW) for threat in threats), default=Urgency.UNKNOWN)
    return ExitStatus.FAILED if args.fail_on and worst >= Urgency[args.fail_on.upper()] else ExitStatus.OK


def chosen(generations: Generations, number: int | None) -> Generation:
    """Return generation *number*, or the latest; raise NoSuchGenerationError when there is none."""
    if number is not None:
        return generations.find(number)
    latest = generations.latest()
    if latest is None:
        raise NoSuchGenerationError(
            f"nothing was built of {generations.topology_path} yet",
            hint="imagebuilder build makes the first generation",
        )
    return latest


def report(threats: Sequence[Finding]) -> None:
    """Print *threats* for people, and tell on stderr how many they are."""
    counts = [f"{sum(threat.urgency is urgency for threat in threats)} {urgency}" for urgency in reversed(Urgency)]
    say(f"{len(threats)} known vulnerabilities: {', '.join(counts)}")
    for threat in threats:
        print(threat)


def _output(store: Store, generation: Generation, step: str) -> str:
    """Return the name of the output of *step*; raise ImagebuilderError when the store has it no more."""
    name = f"{generation.record.steps[step]}-{step}"
    if not (store.root / "outputs" / name).is_dir():
        raise ImagebuilderError(
            f"the store has no {step} of generation {generation.number} any more",
            hint=f"imagebuilder build --generation {generation.number}",
        )
    return name


def advisories_in(place: str) -> tuple[Advisory, ...]:
    """Return the security data in the file or at the URL *place*."""
    content = _download(place) if place.startswith(("https://", "http://")) else _read(Path(place))
    if len(content) > MAX_BYTES:
        raise WrongDataError(f"{place} is larger than {MAX_BYTES // 2**20} MiB")
    return parse(unpacked(content, source=place), source=place)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise WrongDataError(f"{path} can't be read: {str(error.strerror).lower()}") from error


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read(MAX_BYTES + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ImagebuilderError(f"{url} could not be fetched: {reason}") from error
    return content
