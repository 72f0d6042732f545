"""A record of a run, for tests about records."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imagebuilder.runs.record import ImageFacts, Outcome, Record, TestResult
from imagebuilder.topology import Role, load_topology
from imagebuilder.vm.recording import scene

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"


def record(**changes: Any) -> Record:  # noqa: ANN401 (any field of a record)
    """Return a small record of a run that passed, with *changes*."""
    fields: dict[str, Any] = {
        "run": "2026-11-22T21-42-02",
        "started": datetime(2026, 11, 22, 21, 42, 2, tzinfo=UTC),
        "seconds": 730.1,
        "version": "0.1.0",
        "topology": "topology.toml",
        "topology_key": "k",
        "topology_sha256": "1" * 64,
        "lock_sha256": "2" * 64,
        "images": {
            Role.PROXY: ImageFacts(sha256="a" * 64, size_bytes=1_637_875_712, root_hash="c" * 64),
            Role.CLIENT: ImageFacts(sha256="b" * 64, size_bytes=2_728_394_752, root_hash="d" * 64),
        },
        "accelerator": "tcg",
        "patience": 25.0,
        "scene": scene(load_topology(REFERENCE)),
        "tests": (TestResult(id="scenarios/test_a.py::test_a", outcome=Outcome.PASSED, seconds=1.5),),
    }
    return Record(**(fields | changes))
