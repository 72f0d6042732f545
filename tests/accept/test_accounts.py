"""Who owns what on /var, which outlives every image."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuilder.resources import PROFILES
from imagebuilder.topology import Role

pytestmark = pytest.mark.accept

FIRST_OF_PACKAGES, NOBODY = 100, 65534
"""Numbers below are the distribution's own and fixed."""
OWN_NO_FILES = {"users", "input", "sgx", "clock", "kvm", "render"}
"""Groups of device nodes, and one that nobody is in."""


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("file", ["passwd", "group"])
def test_every_account_has_the_number_that_the_profile_fixes(
    package_tree: Callable[[Role], Path], role: Role, file: str
) -> None:
    fixed = of_packages(PROFILES / role / "mkosi.skeleton/etc" / file)
    found = of_packages(package_tree(role) / "etc" / file)

    assert found == fixed  # a new package's account needs a line in the profile's mkosi.skeleton


def test_an_account_means_the_same_in_both_images(package_tree: Callable[[Role], Path]) -> None:
    proxy, client = (of_packages(package_tree(role) / "etc/passwd") for role in Role)

    assert {name: n for name, n in proxy.items() if name in client} == {n: i for n, i in client.items() if n in proxy}


def of_packages(file: Path) -> dict[str, int]:
    """Return the number of each account in a passwd or group *file* that the distribution itself doesn't fix."""
    numbers = {line.split(":")[0]: int(line.split(":")[2]) for line in file.read_text().splitlines()}
    return {name: n for name, n in numbers.items() if FIRST_OF_PACKAGES <= n < NOBODY and name not in OWN_NO_FILES}
