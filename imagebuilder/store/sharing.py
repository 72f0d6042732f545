"""Outputs that need not be built here: taken when a trusted key has signed them, and offered to others."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock.model import LockedPackage
from imagebuilder.plan import Derivation, Plan
from imagebuilder.run import say
from imagebuilder.statements.signing import TRUSTED_KEYS_VARIABLE, PublicKey, SigningKey
from imagebuilder.store.folder import Store
from imagebuilder.store.manifest import manifest_of, parse_manifest
from imagebuilder.store.substituter import Said, Substituter, UnreachableError


def take(store: Store, step: Derivation, substituters: list[Substituter], keys: Sequence[PublicKey]) -> bool:
    """Say whether *store* has the output of *step*, after having looked for it in *substituters*.

    One that can't be reached is removed from the list; what may not be used is told and passed over.
    """
    if store.has(step):
        return True
    for substituter in tuple(substituters):
        try:
            with store.workspace() as workspace:
                if said := substituter.said(str(step), keys, workspace):
                    make = _receiver(substituter, said, workspace)
                    store.output(step, make, doing=f"taking from {substituter}:")
                    return True
        except UnreachableError as error:
            say(f"{error}; going on without it")
            substituters.remove(substituter)
        except ImagebuilderError as error:
            if keys:
                say(f"{step.name} from {substituter} is not used: {error}")
            else:
                say(f"no output of {substituter} is used, as no key is trusted: name some by {TRUSTED_KEYS_VARIABLE}")
                substituters.remove(substituter)
    return False


def _receiver(substituter: Substituter, said: Said, workspace: Path) -> Callable[[Path], dict[str, str]]:
    return lambda folder: substituter.receive(said, folder, workspace)


def unmade(plan: Plan, have: Callable[[Derivation], bool]) -> tuple[Derivation, ...]:
    """Return the steps of *plan* that must be made: those wanted for the images, and what these are made from in turn.

    *have* says whether a step's output is at hand, and may bring it; it is asked for no more than needed.
    """
    rest = [] if have(plan.tools) else [plan.tools]
    needs_modules = False
    for role in plan.roles.values():
        if not have(role.image):
            rest += [step for step in (role.difference, role.frame, role.base) if not have(step)]
            if role.frame in rest and not have(role.initrd):
                rest.append(role.initrd)
            needs_modules |= role.base in rest and bool(role.base.inputs["node_modules"])
            rest.append(role.image)
    if needs_modules and not have(plan.node_modules):
        rest += [step for step in (plan.npm_cache,) if not have(step)] + [plan.node_modules]
    return tuple(step for step in plan.steps if step in rest)


def offer(
    store: Store, steps: Iterable[Derivation], to: Substituter, key: SigningKey
) -> tuple[list[Derivation], list[Derivation]]:
    """Bring those of *steps* that *store* has to *to*, signed by *key*; return (those brought, those there before).

    What does not match the manifest from when it was made is never signed: raises ImagebuilderError.
    """
    brought: list[Derivation] = []
    there: list[Derivation] = []
    for step in steps:
        if not store.has(step):
            continue
        record = store.manifest(step)
        if not record.exists():
            say(f"{step.name} was made by an earlier version, which recorded no digests: not pushed")
            continue
        manifest = manifest_of(store.path(step))
        if manifest != parse_manifest(record.read_text(), source=str(record)):
            raise ImagebuilderError(
                f"the output {step} has changed since it was made, and is not pushed",
                hint="imagebuilder store verify --remove, then build it again",
            )
        with store.workspace() as workspace:
            new = to.offer(str(step), store.path(step), manifest, key, workspace)
        (brought if new else there).append(step)
    return brought, there


def offer_files(store: Store, packages: Iterable[LockedPackage], to: Substituter) -> int:
    """Bring those locked files that *store* has to *to*; return how many were not there before."""
    here = [package for package in packages if store.has_file(package.sha256)]
    return sum(to.put(store.file(package.sha256), f"files/{package.sha256}") for package in here)
