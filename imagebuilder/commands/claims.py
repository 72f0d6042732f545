"""What somebody's provenance claims of images, before and after they are built here."""

from argparse import ArgumentParser
from pathlib import Path

from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import inputs_of
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.statements.provenance import Claim, read_claim
from imagebuilder.statements.signing import configured_trusted_keys


class ClaimError(ImagebuilderError):
    """A provenance can't be checked with what is here."""

    status = ExitStatus.WRONG_INPUT


def claim_arguments(parser: ArgumentParser) -> None:
    """Declare how a provenance is named; whose word counts is among the arguments of sources."""
    parser.add_argument(
        "--provenance", type=Path, metavar="FILE", help="check, too, that the images are those that this file claims"
    )


def claim_in(path: Path, trusted: Path | None, files: Files) -> Claim:
    """Return what *path* claims, once it is sure that building *files* here can prove or refute it.

    Raise ImagebuilderError naming all that is in the way: other files than those it is about, another imagebuilder.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClaimError(f"{path} can't be read: {str(error.strerror).lower()}") from error
    claim = read_claim(content, configured_trusted_keys(trusted), source=str(path))
    if obstacles := claim.obstacles(files.plan(), inputs_of(files)):
        raise ClaimError(
            f"{path} is about another build: {'; '.join(obstacles)}",
            hint="take the files and the imagebuilder that it was built with; a generation keeps copies of its files",
        )
    return claim


def claim_line(claim: Claim, refuted: tuple[str, ...]) -> str:
    """Return for people what building has shown of *claim*. Pure."""
    if refuted:
        return f"provenance  REFUTED: {'; '.join(refuted)}"
    return f"provenance  confirmed, {'signed by a trusted key' if claim.signed else 'its signature not looked at'}"
