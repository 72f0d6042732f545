"""The bill of materials of the built images, judged by CycloneDX's schema."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from imagebuilder.cli import main
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_recorded
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.lock.model import Closure
from imagebuilder.plan import Plan
from imagebuilder.topology import Role

Bill = Callable[[Role], str]


@pytest.fixture
def bill(pytestconfig: pytest.Config, plan: Plan, capsys: pytest.CaptureFixture[str]) -> Bill:
    topology = pytestconfig.getoption("--topology")
    build_recorded(Files(topology), the_store(), sources_of_environment())

    def printed(role: Role, *arguments: str) -> str:
        capsys.readouterr()
        assert main(["sbom", role, "-t", str(topology), *arguments]) == 0
        return capsys.readouterr().out

    return printed


@pytest.mark.accept
@pytest.mark.parametrize("role", list(Role))
def test_the_bill_of_an_image_is_valid_and_complete(bill: Bill, plan: Plan, role: Role) -> None:
    text = bill(role)
    told: Any = json.loads(text)
    components = told["components"]

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert bill(role) == text
    debian = {entry["name"]: entry for entry in components if entry["purl"].startswith("pkg:deb/")}
    assert set(debian) >= {package.name for package in plan.lock.closure(Closure(role))}
    assert all(entry["hashes"][0]["alg"] == "SHA-256" for entry in debian.values())
    sources = {p["value"] for p in debian["libssl3t64"]["properties"] if p["name"] == "imagebuilder:source"}
    assert sources == {"openssl"}
    npm = {entry["name"] for entry in components if entry["purl"].startswith("pkg:npm/")}
    assert ("Haraka" in npm) == (role is Role.PROXY)
    # Some packages have copyright files for people only.
    assert sum("licenses" in entry for entry in components) > 0.9 * len(components)


@pytest.mark.accept
def test_security_data_is_held_against_the_real_packages(
    bill: Bill, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "trixie"
    data.write_text("VERSION 1\nCVE-2026-0001,,Made for this test\n\nopenssl,0, HRF,99-1,98-1\nbash,0, L F,1-1,\n\n\n")
    bill(Role.CLIENT)
    argv = ["sbom", "client", "-t", str(pytestconfig.getoption("--topology")), "--vulnerabilities", str(data)]

    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "CVE-2026-0001  high, remote  openssl " in out
    assert "fixed in 98-1" in out
    assert "bash" not in out
    assert main([*argv, "--fail-on", "high"]) == 1
