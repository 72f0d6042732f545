"""Only a complete run that passed speaks for its images, and only who is trusted may say so."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from imagebuilder.errors import ImagebuilderError
from imagebuilder.runs.attestation import PREDICATE_TYPE, attest, attestation_for, refusal, statement_of
from imagebuilder.runs.record import Outcome, TestResult
from imagebuilder.statements.signing import SigningKey, UntrustedError
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role
from tests.unit.records import record

DIGESTS = {Role.PROXY: "a" * 64, Role.CLIENT: "b" * 64}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("IMAGEBUILDER_TRUSTED_KEYS", raising=False)
    return Store(tmp_path)


def result(outcome: Outcome, name: str = "test_b") -> TestResult:
    return TestResult(id=f"scenarios/test_a.py::{name}", outcome=outcome, seconds=1)


def test_a_statement_names_both_images_the_inputs_and_the_tests() -> None:
    tests = (result(Outcome.PASSED), result(Outcome.SKIPPED, "test_c"))
    told = json.loads(statement_of(record(tests=tests)).to_bytes())

    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == PREDICATE_TYPE
    assert {each["name"]: each["digest"]["sha256"] for each in told["subject"]} == DIGESTS
    assert told["predicate"]["result"] == "PASSED"
    assert told["predicate"]["passedTests"] == ["scenarios/test_a.py::test_b"]
    assert told["predicate"]["skippedTests"] == ["scenarios/test_a.py::test_c"]
    resources = {each["name"]: each for each in told["predicate"]["configuration"]}
    assert resources["topology.lock"]["digest"]["sha256"] == "2" * 64
    assert resources["imagebuilder"]["uri"] == "pkg:pypi/imagebuilder@0.1.0"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tests": (result(Outcome.PASSED), result(Outcome.FAILED, "x"))}, "failed"),
        ({"tests": (result(Outcome.PASSED), result(Outcome.DENIED, "x"))}, "partial: 1 test on the denylist"),
        ({"tests": (result(Outcome.FLAKY),)}, "only when tried again"),
        ({"deselected": 3}, "partial: 3 tests left out"),
        ({"expression": "inbox"}, "partial: only tests matching 'inbox'"),
        ({"never_ran": ("a",)}, "partial: 1 test had not run"),
        ({"tests": ()}, "no test ran"),
    ],
)
def test_a_run_that_is_not_the_whole_or_not_clean_attests_nothing(changes: dict[str, object], why: str) -> None:
    assert why in (refusal(record(**changes)) or "")


def test_a_complete_run_that_passed_is_found_by_its_images_and_by_no_others(store: Store) -> None:
    assert refusal(record()) is None
    attest(store, record(), None)

    found = attestation_for(store, DIGESTS)
    assert found is not None
    assert found.tests == ("scenarios/test_a.py::test_a",)
    assert found.signers == ()
    assert attestation_for(store, DIGESTS | {Role.CLIENT: "c" * 64}) is None


def test_one_for_other_images_under_this_name_does_not_count(store: Store) -> None:
    path = attest(store, record(), None)
    path.rename(path.with_name(f"{'a' * 64}-{'c' * 64}.json"))

    assert attestation_for(store, DIGESTS | {Role.CLIENT: "c" * 64}) is None


def test_who_trusts_certain_keys_believes_nobody_else(store: Store) -> None:
    ours, other = SigningKey(Ed25519PrivateKey.generate()), SigningKey(Ed25519PrivateKey.generate())
    attest(store, record(), ours)

    found = attestation_for(store, DIGESTS, [ours.public])
    assert found is not None
    assert found.signers == (ours.public.id,)
    with pytest.raises(UntrustedError):
        attestation_for(store, DIGESTS, [other.public])
    attest(store, record(), None)
    with pytest.raises(UntrustedError, match="nobody"):
        attestation_for(store, DIGESTS, [ours.public])


def test_a_damaged_one_is_named(store: Store) -> None:
    path = attest(store, record(), None)
    path.write_text("{")

    with pytest.raises(ImagebuilderError, match=r"attestations"):
        attestation_for(store, DIGESTS)
