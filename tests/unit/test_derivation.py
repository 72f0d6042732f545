"""What changes the key of a derivation, and what does not."""

import json
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.lock.model import Closure, Lock, LockedPackage
from imagebuilder.plan import Derivation, kernels, plan
from imagebuilder.topology import Role
from tests.unit.test_plan import changed_steps, inputs

simple = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5))
values = st.recursive(
    simple, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=3), of, max_size=3)
)
inputs_of_a_step = st.dictionaries(st.text(max_size=4), values, max_size=4)


def shuffled(value: object, chance: random.Random) -> object:
    """Return *value* with the keys of its mappings in another order."""
    if isinstance(value, Mapping):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return [shuffled(each, chance) for each in value] if isinstance(value, list) else value


@given(inputs_of_a_step, inputs_of_a_step, st.text(max_size=3), st.text(max_size=3))
def test_keys_are_the_same_just_when_name_and_inputs_are(
    a: dict[str, object], b: dict[str, object], name: str, other: str
) -> None:
    same = name == other and json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)

    assert (Derivation(name, a).key == Derivation(other, b).key) == same


@given(inputs_of_a_step, st.randoms(use_true_random=False))
def test_the_order_of_inputs_means_nothing(told: dict[str, object], chance: random.Random) -> None:
    again = shuffled(told, chance)
    assert isinstance(again, dict)

    assert Derivation("x", told).key == Derivation("x", again).key


def with_package(lock: Lock, package: LockedPackage, **changed: object) -> Lock:
    other = package.model_copy(update=changed)
    return lock.model_copy(update={"packages": tuple(other if p is package else p for p in lock.packages)})


def affected(lock: Lock, package: LockedPackage) -> set[str]:
    """Return the steps that are made from *package*, and those that are made from these."""
    if Closure.TOOLS in package.closures:
        return {step.name for step in plan(*inputs()).steps}
    steps: set[str] = set()
    for role in Role:
        of_role = Closure(role) in package.closures
        last = {f"{role}-frame", f"{role}-difference", f"{role}-image"}
        if Closure.INITRD in package.closures or (of_role and package in kernels(lock.closure(Closure(role)))):
            steps |= {f"{role}-initrd", *last}
        if of_role:
            steps |= {f"{role}-base", *last}
    return steps


packages = st.integers(0, len(inputs()[2].packages) - 1)


@settings(deadline=None, max_examples=12)
@given(packages)
def test_other_bytes_of_a_package_change_just_the_steps_made_from_it(number: int) -> None:
    topology, public, lock = inputs()
    package = lock.packages[number]

    assert changed_steps(plan(topology, public, with_package(lock, package, sha256="f" * 64))) == affected(
        lock, package
    )


@settings(deadline=None, max_examples=8)
@given(packages, st.sampled_from([{"path": "pool/x.deb"}, {"held": "why"}, {"pinned": "why"}, {"size": 1}]))
def test_what_is_only_told_of_a_package_changes_nothing(number: int, told: dict[str, object]) -> None:
    topology, public, lock = inputs()

    assert changed_steps(plan(topology, public, with_package(lock, lock.packages[number], **told))) == set()


@pytest.mark.parametrize("changed", [{"epoch": 1}, {"seed": "6b14c566-4460-5964-860e-63b874b62697"}])
def test_date_and_seed_change_all_that_mkosi_makes_and_no_more(changed: dict[str, object]) -> None:
    topology, public, lock = inputs()
    other = Lock.model_validate(lock.model_dump() | changed)
    rest = {"tools", "npm-cache", "node-modules"}

    assert changed_steps(plan(topology, public, other)) == {step.name for step in plan(*inputs()).steps} - rest


def test_when_single_packages_were_updated_changes_nothing_by_itself() -> None:
    topology, public, lock = inputs()

    assert changed_steps(plan(topology, public, lock.model_copy(update={"updates": (7,)}))) == set()
