"""What a host says of itself is held against its generation, and every way not to be well is named."""

from pathlib import Path

import pytest

from imagebuilder.commands.status import reported
from imagebuilder.errors import ExitStatus
from imagebuilder.shipping.arrival import Check, judged_host
from imagebuilder.shipping.residence import questions
from imagebuilder.topology import Role
from tests.unit.images import small_image
from tests.unit.test_residence import said_by


def host(tmp_path: Path, *, state: str = "state running\nhandshake 12\n", root_hash: str = "") -> dict[str, Check]:
    image = small_image(tmp_path, Role.PROXY)
    assert questions(image)
    said = said_by(image.path, image, root_hash=root_hash) + "\n" + state
    return {check.name: check for check in judged_host(image, said)}


def test_a_host_that_is_well_is_right_in_everything(tmp_path: Path) -> None:
    checks = host(tmp_path)

    assert [(name, check.right) for name, check in checks.items()] == [
        ("system", True), ("units", True), ("tunnel", True),
    ]  # fmt: skip
    assert checks["tunnel"].said == "the last handshake was 12 s ago"
    assert reported(tuple(checks.values()), as_json=False) == ExitStatus.OK


def test_another_system_is_named_by_its_root(tmp_path: Path) -> None:
    check = host(tmp_path, root_hash="cd" * 32)["system"]

    assert not check.right
    assert check.said == f"it runs from the root {'cd' * 32}"


def test_failed_units_are_named(tmp_path: Path) -> None:
    check = host(tmp_path, state="state degraded\nfailed caddy.service\nfailed unbound.service\n")["units"]

    assert not check.right
    assert check.said == "degraded: caddy.service, unbound.service failed"


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("handshake -1", "there has been no handshake yet"),
        ("handshake 181", "the last handshake was 181 s ago, so nothing comes through"),
        ("", "it is not there"),
    ],
)
def test_a_tunnel_that_is_down_is_told_apart(tmp_path: Path, said: str, meaning: str) -> None:
    check = host(tmp_path, state=f"state running\n{said}\n")["tunnel"]

    assert not check.right
    assert check.said == meaning


def test_what_can_not_be_told_from_here_is_not_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    unknown, wrong = Check("mail", None, "blocked here"), Check("tunnel", False, "down")

    assert reported((unknown,), as_json=True) == ExitStatus.OK
    assert reported((unknown, wrong), as_json=False) == ExitStatus.FAILED
    assert "WRONG tunnel: down" in capsys.readouterr().out
