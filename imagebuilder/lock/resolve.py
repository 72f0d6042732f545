"""Locking: ask Debian's archives which packages each closure needs, and write down exactly which."""

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imagebuilder.errors import ImagebuilderError, Problem, WrongInputError
from imagebuilder.lock.debian import Apt, Stanza, planned, simulated, stanzas
from imagebuilder.lock.model import Archive, Closure, Lock, LockedPackage
from imagebuilder.lock.overrides import Known, Overrides, likely, problems_of
from imagebuilder.run import ProcessError
from imagebuilder.topology.explain import suggestion

ESSENTIAL = ("?essential ?architecture(amd64)", "base-files")
"""What every Debian system has; apt's own pattern language (apt-patterns(7))."""

MKOSI = LockedPackage(
    name="mkosi",
    version="27.1-1",
    architecture="all",
    sha256="b8cec2f88e217bbfcde6b70605f67ea94069f64c21b1b6a9b88c0e177b23af81",
    size=370332,
    archive=Archive.DEBIAN,
    path="pool/main/m/mkosi/mkosi_27.1-1_all.deb",
    closures=(Closure.TOOLS,),
)
"""The release has an older mkosi, which lacks what we need; this one is pinned whatever the archive has now."""


Versions = Mapping[str, str]
"""Name of each package to its version."""

ALL = "all"
"""What may move when everything may."""


@dataclass(frozen=True)
class Request:
    """What is to be locked."""

    wanted: Mapping[Closure, Sequence[str]]
    """Names that each closure asks for; what they depend on comes with them."""
    old: Lock | None = None
    """What is locked already."""
    moving: frozenset[str] | str = ALL
    """Names of the packages that may have another version than before, besides those that they force; or ALL."""
    overrides: Overrides = field(default_factory=Overrides)
    overrides_name: str = "topology.overrides.toml"
    """What problems in the overrides are reported under."""


Controls = Callable[[Sequence[LockedPackage]], Sequence[str]]
"""Gives the control stanza of locked packages, fetching their files if need be."""


def resolve(apt: Apt, request: Request, controls: Controls) -> Lock:
    """Return the lock of *request* as the archives are now.

    Raises WrongInputError for overrides that can't be, and for names to update that are not locked.
    """
    kept = request.overrides.kept(request.old)
    _check_moving(request)
    apt.prepare()
    apt.offer(_index(_kept_as_locked(request.old, kept), controls))
    apt.update()
    _check_overrides(apt, request)
    apt.keep(kept)
    if request.old is None or request.moving == ALL:
        return _fresh(apt, request)
    return _moved(apt, request, request.old, frozenset(request.moving), controls)


def _check_moving(request: Request) -> None:
    """Raise WrongInputError naming every package that is to move and can't."""
    if request.old is None or isinstance(request.moving, str):
        return
    locked, problems = request.old.by_name, []
    for name in sorted(request.moving):
        if name == MKOSI.name:
            problems.append(Problem(name, "this package is fixed by imagebuilder itself"))
        elif name not in locked:
            problems.append(Problem(name, f"no such package is locked{suggestion(name, likely(name, locked))}"))
        elif hold := request.overrides.hold.get(name):
            problems.append(Problem(name, f"this package is held: {hold.reason}"))
    if problems:
        raise WrongInputError("--update", tuple(problems))


def _check_overrides(apt: Apt, request: Request) -> None:
    overrides = request.overrides
    named = sorted({*overrides.hold, *overrides.pin})
    if not named:
        return
    versions: dict[str, tuple[str, ...]] = {}
    for line in apt.run("apt-cache", "madison", *named).splitlines():
        name, version, _ = (part.strip() for part in line.split("|", 2))
        versions[name] = tuple(dict.fromkeys((*versions.get(name, ()), version)))
    known = Known(versions, apt.run("apt-cache", "pkgnames").split())
    if problems := problems_of(overrides, old=request.old, known=known, fixed=(MKOSI.name,)):
        raise WrongInputError(request.overrides_name, problems)


def _kept_as_locked(old: Lock | None, kept: Versions) -> list[LockedPackage]:
    """Return the locked packages whose version is kept: the archives may have dropped it."""
    return [package for package in old.packages if kept.get(package.name) == package.version] if old else []


def _index(packages: Sequence[LockedPackage], controls: Controls) -> str:
    """Return what an archive index says of *packages*."""
    return "\n".join(
        f"{control}\nFilename: {package.path}\nSize: {package.size}\nSHA256: {package.sha256}\n"
        for package, control in zip(packages, controls(packages), strict=True)
    )


def _fresh(apt: Apt, request: Request) -> Lock:
    """Return a lock that owes nothing to the old one but what is held."""
    closures = {}
    for closure, names in request.wanted.items():
        printed = _apt_install(apt, "--print-uris", "-qq", *ESSENTIAL, *names)
        closures[closure] = dict(planned(printed))
    epoch = apt.epoch()
    seed = uuid.uuid5(uuid.NAMESPACE_OID, f"imagebuilder {epoch}")
    return Lock(epoch=epoch, seed=seed, packages=_packages(apt, request, closures))


def _moved(apt: Apt, request: Request, old: Lock, moving: frozenset[str], controls: Controls) -> Lock:
    """Return *old* with *moving*, what that forces to move, and what the profiles ask for by now."""
    status = _status(apt, old, moving, controls)
    while True:
        closures = {closure: _upgraded(apt, request, old, closure, moving, status) for closure in request.wanted}
        locked = {package.name: package.version for package in old.packages}
        moved = {n for versions in closures.values() for n, v in versions.items() if n in locked and locked[n] != v}
        # What one closure forces moves in the others too: a package has one version.
        if moved <= moving:
            break
        moving |= moved
    packages = _packages(apt, request, closures)
    fresh = {package.sha256 for package in packages} - {package.sha256 for package in old.packages}
    updates = tuple(dict.fromkeys((*old.updates, *({apt.epoch()} - {old.epoch} if fresh else ()))))
    return old.model_copy(update={"packages": packages, "updates": updates})


def _status(apt: Apt, old: Lock, moving: frozenset[str], controls: Controls) -> dict[str, str]:
    """Return the stanza of each locked package whose dependencies matter: what moves is judged by its new ones."""
    locked = [package for package in old.packages if package.name != MKOSI.name]
    listed = {
        (stanza["Package"], stanza["Version"]): text
        for text, stanza in _shown(apt, {(package.name, package.version) for package in locked})
    }
    known = {package.name: listed.get((package.name, package.version)) for package in locked}
    dropped = [package for package in locked if known[package.name] is None and package.name not in moving]
    known |= {package.name: text for package, text in zip(dropped, controls(dropped), strict=True)}
    return {name: text for name, text in known.items() if text is not None}


def _upgraded(
    apt: Apt, request: Request, old: Lock, closure: Closure, moving: frozenset[str], status: Mapping[str, str]
) -> Versions:
    """Return *closure* after *moving*: apt is asked what it would do to a system that has what was locked."""
    if not old.closure(closure):
        return _begun(apt, request.wanted[closure], old, status)
    before = {package.name: package.version for package in old.closure(closure) if package.name in status}
    wanted = request.wanted[closure]
    index = "\n".join(f"{status[name].rstrip()}\n" for name in before)
    apt.install(index, automatic=[name for name in before if name not in wanted])
    kept = request.overrides.kept(request.old)
    names = {name for name in wanted if name not in before}
    names |= {package.name for package in old.closure(closure) if package.name in moving and package.name != MKOSI.name}
    names |= {name for name in request.overrides.pin if before.get(name, kept[name]) != kept[name]}
    # Named with a minus it would go: what nobody wants any more goes by --auto-remove.
    printed = _apt_install(apt, "--simulate", "--auto-remove", "--allow-downgrades", *sorted(names))
    return simulated(printed, before)


def _begun(apt: Apt, wanted: Sequence[str], old: Lock, status: Mapping[str, str]) -> Versions:
    """Return a closure that *old* knows nothing of, made of what is locked already as far as that goes.

    Apt is asked what it would leave of a system that has everything of all closures and wants no more than this one.
    """
    before = {package.name: package.version for package in old.packages if package.name in status}
    apt.install("\n".join(f"{status[name].rstrip()}\n" for name in before), automatic=before)
    options = ("--simulate", "--auto-remove", "--no-upgrade")
    return simulated(_apt_install(apt, *options, *ESSENTIAL, *wanted), before)


def _apt_install(apt: Apt, *argv: str) -> str:
    try:
        return apt.run("apt-get", "install", *argv)
    except ProcessError as error:
        lines = [line.strip() for line in f"{error.stdout}\n{error.output}".splitlines()]
        said = [
            line for line in lines if re.search(r"(Depends|Conflicts|Breaks): |: Unable to locate|has no inst", line)
        ]
        why = "; ".join(said[:4]) or lines[-1]
        raise ImagebuilderError(
            f"these packages can't be installed together: {why}",
            hint="a pin or a hold may be impossible now; or more must move: imagebuilder lock --update",
        ) from error


def _packages(apt: Apt, request: Request, closures: Mapping[Closure, Versions]) -> tuple[LockedPackage, ...]:
    """Return the locked form of what the *closures* have, sorted by name."""
    members: dict[tuple[str, str], set[Closure]] = {}
    for closure, versions in closures.items():
        for name, version in versions.items():
            members.setdefault((name, version), set()).add(closure)
    old = request.old.by_name if request.old else {}
    as_before = {(n, v): old[n] for n, v in members if n in old and old[n].version == v}
    indexed = {
        (stanza["Package"], stanza["Version"]): stanza
        for _, stanza in _shown(apt, members.keys() - as_before.keys())
        if "Filename" in stanza.fields
    }
    found = {MKOSI.name: MKOSI}
    for (name, version), among in members.items():
        package = as_before.get((name, version)) or locked_package(indexed[name, version])
        changes = {"closures": tuple(sorted(among)), **request.overrides.reasons(name)}
        found[name] = package.model_copy(update=changes)
    return tuple(found[name] for name in sorted(found))


def _shown(apt: Apt, wanted: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Stanza]]:
    """Yield the index stanza, as text and read, of each wanted (name, version) that the archives list."""
    names = [f"{name}={version}" for name, version in sorted(wanted)]
    text = apt.run("apt-cache", "show", "--no-all-versions", *names) if names else ""
    for block in re.split(r"\n\s*\n", text):
        for stanza in stanzas(block):
            yield block, stanza


def locked_package(stanza: Stanza) -> LockedPackage:
    """Return the package that *stanza* of an archive index describes, in no closure yet."""
    if "SHA256" not in stanza.fields:
        raise ImagebuilderError(f"the archive gives no SHA-256 for {stanza['Package']}", hint="choose another mirror")
    path = stanza["Filename"]
    return LockedPackage(
        name=stanza["Package"],
        version=stanza["Version"],
        architecture=stanza["Architecture"],
        sha256=stanza["SHA256"],
        size=int(stanza["Size"]),
        # The security archive keeps its pool below pool/updates.
        archive=Archive.SECURITY if path.startswith("pool/updates/") else Archive.DEBIAN,
        path=path,
        closures=(),
    )
