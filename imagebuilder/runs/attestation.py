"""What a passed run of the acceptance tests says of the images, for whoever ships them. Owns STORE/attestations.

The predicate is in-toto's test result, https://in-toto.io/attestation/test-result/v0.1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuilder.runs.record import Outcome, Record, Verdict
from imagebuilder.statements.intoto import PAYLOAD_TYPE, Statement, subject
from imagebuilder.statements.signing import Envelope, PublicKey, SigningKey, configured_trusted_keys, sign, verify
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role
from imagebuilder.writing import write_whole

PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
PASSED = "PASSED"


@dataclass(frozen=True)
class Attestation:
    """That two images passed the acceptance tests together."""

    statement: Statement
    signers: tuple[str, ...]
    """Fingerprints of the keys that are said to have signed it; empty when nobody has."""

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests that passed."""
        return tuple(map(str, self.statement.predicate.get("passedTests", ())))


def refusal(record: Record) -> str | None:
    """Return why *record* says nothing for the images as a whole, or None. Pure."""
    if record.verdict is Verdict.FAILED:
        return "tests failed"
    if record.verdict is Verdict.PARTIAL:
        return f"partial: {'; '.join(record.left_out)}"
    if flaky := record.counts[Outcome.FLAKY]:
        return f"{flaky} of the tests passed only when tried again"
    return None


def statement_of(record: Record) -> Statement:
    """Return what *record*, a complete run that passed, says of its images. Pure."""
    predicate: dict[str, Any] = {
        "result": PASSED,
        "configuration": [
            {"name": "topology.lock", "digest": {"sha256": record.lock_sha256}},
            {"name": "topology.toml", "digest": {"sha256": record.topology_sha256}},
            {"name": "imagebuilder", "uri": f"pkg:pypi/imagebuilder@{record.version}"},
        ],
        "passedTests": [test.id for test in record.tests if test.outcome is Outcome.PASSED],
        "warnedTests": [],
        "failedTests": [],
        # Beyond the predicate's own fields, which in-toto allows: what did not apply, and which run it was.
        "skippedTests": [test.id for test in record.tests if test.outcome is Outcome.SKIPPED],
        "run": {
            "name": record.run,
            "startedOn": record.started.isoformat(),
            "accelerator": record.accelerator,
            "version": record.version,
        },
    }
    subjects = tuple(subject(str(role), image.sha256) for role, image in record.images.items())
    return Statement(subject=subjects, predicate_type=PREDICATE_TYPE, predicate=predicate)


def attest(store: Store, record: Record, key: SigningKey | None) -> Path:
    """Write down what *record* says, signed by *key* if there is one, and return the file; it is there whole or not."""
    envelope = sign(PAYLOAD_TYPE, statement_of(record).to_bytes(), key)
    target = place(store, {role: image.sha256 for role, image in record.images.items()})
    target.parent.mkdir(parents=True, exist_ok=True)
    with store.workspace() as workspace:
        write_whole(target, envelope.to_json().encode() + b"\n", by=workspace / target.name)
    return target


def attestation_for(
    store: Store, digests: Mapping[Role, str], trusted: Iterable[PublicKey] | None = None
) -> Attestation | None:
    """Return the proof that the images with these *digests* passed together, or None when there is none.

    When keys are *trusted* (default: those that the operator configured), one of them must have signed it. Raise
    ImagebuilderError for one that is damaged, or that none of them has signed.
    """
    path = place(store, digests)
    try:
        envelope = Envelope.from_json(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        return None
    keys = tuple(configured_trusted_keys() if trusted is None else trusted)
    statement = Statement.from_bytes(verify(envelope, keys) if keys else envelope.payload, source=str(path))
    about = set(statement.digests().values())
    if (
        about != set(digests.values())
        or statement.predicate_type != PREDICATE_TYPE
        or statement.predicate.get("result") != PASSED
    ):
        return None
    return Attestation(statement, tuple(signature.keyid for signature in envelope.signatures))


def place(store: Store, digests: Mapping[Role, str]) -> Path:
    """Return where the attestation of the images with these *digests* is, or will be."""
    return store.root / "attestations" / f"{digests[Role.PROXY]}-{digests[Role.CLIENT]}.json"
