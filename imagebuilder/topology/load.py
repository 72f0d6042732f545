"""Reads the topology and the public keys beside it; whatever is wrong in them becomes a WrongInputError."""

import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from imagebuilder.errors import Problem, WrongInputError
from imagebuilder.topology.explain import problems_of
from imagebuilder.topology.model import Model, Topology
from imagebuilder.topology.parts import parts_of
from imagebuilder.topology.public import PublicKeys
from imagebuilder.topology.rules import rule_problems

MAX_FILE_BYTES = 16 * 2**20
SCHEMA_HINT = "imagebuilder schema describes every key"
INIT_HINT = "imagebuilder init writes one"
KEYS_HINT = "imagebuilder init writes the public keys"

AnyModel = TypeVar("AnyModel", bound=Model)


def load_topology(path: Path) -> Topology:
    """Return the topology in the file at *path*; raise WrongInputError with everything that is wrong in it."""
    document = read_toml(path, hint=INIT_HINT)
    topology, problems = judged(document)
    if topology is not None:
        problems += _ca_root_problems(topology, path)
    if topology is None or problems:
        raise WrongInputError(str(path), problems, hint=SCHEMA_HINT)
    return with_ca_root(topology, path)


def with_ca_root(topology: Topology, path: Path) -> Topology:
    """Return *topology*, which stands at *path*, with what is in the file acme.ca_root: its content, not its name,
    is what images are made of.
    """
    if topology.acme.ca_root is None:
        return topology
    pem = _certificates((path.parent / topology.acme.ca_root).read_bytes())
    return topology.model_copy(update={"acme": topology.acme.with_root_certificates(pem)})


def load_public_keys(path: Path, topology: Topology | None = None) -> PublicKeys:
    """Return the public keys in the file at *path*, ``NAME.public.toml`` beside the topology.

    With *topology*, a key that it needs and the file lacks is a problem too. Raise WrongInputError with all.
    """
    public = validated(path, read_toml(path, hint=KEYS_HINT), PublicKeys, hint=KEYS_HINT)
    if topology is not None and (problems := missing_keys(public, topology)):
        raise WrongInputError(str(path), problems, hint=KEYS_HINT)
    return public


def judged(document: Mapping[str, Any]) -> tuple[Topology | None, tuple[Problem, ...]]:
    """Return the topology that *document* is, if it fits the model, and all that is wrong with it. Pure."""
    topology: Topology | None = None
    problems: tuple[Problem, ...] = ()
    try:
        topology = Topology.model_validate(document)
    except ValidationError as error:
        problems = problems_of(error, Topology)
    doubtful = frozenset(problem.place for problem in problems)
    of_rules = rule_problems(parts_of(document, doubtful))
    return topology, (*problems, *(problem for problem in of_rules if problem.place not in doubtful))


def missing_keys(public: PublicKeys, topology: Topology) -> tuple[Problem, ...]:
    """Return which keys *topology* needs and *public* lacks. Pure."""
    return tuple(
        Problem(f"dkim.'{domain.name}'", f"there is no key for the selector {selector!r}")
        for domain in topology.mail.domains
        for selector in domain.selectors
        if selector not in public.dkim.get(domain.name, {})
    )


def validated(
    path: Path, document: Mapping[str, Any], model: type[AnyModel], *, hint: str, secret: bool = False
) -> AnyModel:
    """Return *document* as *model*; raise WrongInputError that names *path*, and no value when *secret*."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = problems_of(error, model, secret=secret)
    raise WrongInputError(str(path), problems, hint=hint)


def read_toml(path: Path, *, hint: str) -> dict[str, Any]:
    """Return what stands in the TOML file at *path*; raise WrongInputError when that can't be told."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _wrong(path, "is a directory" if path.is_dir() else "is no regular file", hint)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _wrong(path, f"is larger than {MAX_FILE_BYTES // 2**20} MiB", hint)
        content = path.read_bytes()
    except FileNotFoundError:
        raise _wrong(path, "there is no such file", hint) from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _wrong(path, f"can't be read: {said.lower()}", None) from None
    return parsed_toml(path, content)


def parsed_toml(path: Path, content: bytes) -> dict[str, Any]:
    """Return *content*, read from *path*, as TOML; a byte-order mark is passed over."""
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        said = f"is not UTF-8 text: byte 0x{content[error.start]:02x} in line {line}"
    except RecursionError:
        said = "is no TOML that can be read: it is nested too deeply"
    except ValueError as error:  # TOMLDecodeError is one, and so is what int() says of 5,000 digits
        said = f"is not TOML: {str(error)[:1].lower()}{str(error)[1:]}"
    raise _wrong(path, said, "strings stand in double quotes, tables in [brackets]; see https://toml.io")


def _wrong(path: Path, message: str, hint: str | None) -> WrongInputError:
    """Return the exception for a file that is wrong as a whole."""
    return WrongInputError(str(path), (Problem("", message),), hint=hint)


def _ca_root_problems(topology: Topology, path: Path) -> tuple[Problem, ...]:
    """Return what is wrong with the file that acme.ca_root names."""
    if topology.acme.ca_root is None:
        return ()
    root = path.parent / topology.acme.ca_root
    try:
        _certificates(root.read_bytes() if root.is_file() else b"")
    except OSError as error:
        return (Problem("acme.ca_root", f"{str(root)!r} can't be read: {str(error.strerror).lower()}"),)
    except ValueError:
        said = "has no certificate in PEM form" if root.is_file() else "is no file"
        return (Problem("acme.ca_root", f"{str(root)!r} {said}"),)
    return ()


def _certificates(content: bytes) -> str:
    """Return the certificates in *content* and nothing else of it, PEM; raise ValueError when there are none."""
    # much to import for what most topologies don't have
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    return "".join(each.public_bytes(Encoding.PEM).decode() for each in load_pem_x509_certificates(content))
