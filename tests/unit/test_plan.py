from functools import cache
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock.model import Archive, Closure, Lock, LockedPackage, read_lock
from imagebuilder.plan import Plan, kernels, plan
from imagebuilder.topology import PublicKeys, Role, Topology, load_public_keys, load_topology

TOPOLOGIES = Path(__file__).parents[1] / "topologies"


@cache
def inputs() -> tuple[Topology, PublicKeys, Lock]:
    topology = load_topology(TOPOLOGIES / "reference.toml")
    return topology, load_public_keys(TOPOLOGIES / "reference.public.toml"), read_lock(TOPOLOGIES / "reference.lock")


@cache
def reference() -> Plan:
    return plan(*inputs())


def changed_steps(other: Plan) -> set[str]:
    return {a.name for a, b in zip(reference().steps, other.steps, strict=True) if a.key != b.key}


def with_other(lock: Lock, package: LockedPackage) -> Lock:
    other = package.model_copy(update={"sha256": "f" * 64})
    return lock.model_copy(update={"packages": tuple(other if p is package else p for p in lock.packages)})


def test_the_same_inputs_mean_the_same_steps() -> None:
    assert changed_steps(plan(*inputs())) == set()


LAST = ("difference", "image")


def test_a_change_of_the_topology_makes_the_last_stage_anew_and_nothing_else() -> None:
    topology, public, lock = inputs()
    other = topology.model_copy(update={"tunnel": topology.tunnel.model_copy(update={"mtu": 1300})})

    assert changed_steps(plan(other, public, lock)) == {f"{role}-{step}" for role in Role for step in LAST}


@pytest.mark.parametrize(
    ("closures", "steps"),
    [
        ({Closure.CLIENT}, {"client-base", "client-frame", "client-difference", "client-image"}),
        ({Closure.PROXY}, {"proxy-base", "proxy-frame", "proxy-difference", "proxy-image"}),
    ],
)
def test_another_package_of_one_role_leaves_the_other_as_it_is(closures: set[Closure], steps: set[str]) -> None:
    topology, public, lock = inputs()
    package = next(p for p in lock.packages if set(p.closures) == closures and p not in kernels(lock.packages))

    assert changed_steps(plan(topology, public, with_other(lock, package))) == steps


def test_another_tool_makes_everything_anew() -> None:
    topology, public, lock = inputs()
    package = next(p for p in lock.packages if p.closures == (Closure.TOOLS,))

    assert changed_steps(plan(topology, public, with_other(lock, package))) == {s.name for s in reference().steps}


def test_the_lock_has_one_kernel_per_role_and_only_hashes_of_archives() -> None:
    _, _, lock = inputs()

    assert all(len(kernels(lock.closure(Closure(role)))) == 1 for role in Role)
    assert {package.archive for package in lock.packages} <= set(Archive)


def test_a_lock_made_for_other_profiles_is_refused_with_all_that_it_lacks() -> None:
    topology, public, lock = inputs()
    older = lock.model_copy(update={"packages": tuple(p for p in lock.packages if p.name not in ("rspamd", "caddy"))})

    with pytest.raises(ImagebuilderError, match=r"the lock lacks caddy \(proxy\), rspamd \(client\)") as refused:
        plan(topology, public, older)
    assert refused.value.hint == "imagebuilder lock"


def test_the_installer_follows_its_packages_and_the_proxys_kernel_and_is_no_step_to_an_image() -> None:
    topology, public, lock = inputs()
    own = next(p for p in lock.packages if p.closures == (Closure.INSTALLER,))
    (kernel,) = kernels(lock.closure(Closure.PROXY))
    (other_kernel,) = kernels(lock.closure(Closure.CLIENT))

    changed = plan(topology, public, with_other(lock, own))
    assert changed_steps(changed) == set()
    assert changed.installer.key != reference().installer.key
    assert plan(topology, public, with_other(lock, kernel)).installer.key != reference().installer.key
    assert plan(topology, public, with_other(lock, other_kernel)).installer == reference().installer
    assert reference().installer not in reference().steps
