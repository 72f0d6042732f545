import json
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import inputs_of
from imagebuilder.errors import ImagebuilderError
from imagebuilder.generations import NPM_LOCK
from imagebuilder.plan import NPM_PROJECT, Plan, plan
from imagebuilder.statements.intoto import PAYLOAD_TYPE, Statement, subject
from imagebuilder.statements.provenance import provenance, read_claim
from imagebuilder.statements.signing import Envelope, SigningKey, UntrustedError, sign
from imagebuilder.topology import Role

REFERENCE = Files(Path(__file__).parents[1] / "topologies/reference.toml")
IMAGES = {Role.PROXY: "1" * 64, Role.CLIENT: "2" * 64}
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"k" * 32))


@cache
def planned(mtu: int = 1420) -> Plan:
    topology, public, lock = REFERENCE.read()
    tunnel = topology.tunnel.model_copy(update={"mtu": mtu})
    return plan(topology.model_copy(update={"tunnel": tunnel}), public, lock)


@cache
def statement() -> Statement:
    return provenance(planned(), inputs_of(REFERENCE), IMAGES, (NPM_PROJECT / NPM_LOCK).read_text())


def envelope(key: SigningKey | None = KEY) -> bytes:
    return sign(PAYLOAD_TYPE, statement().to_bytes(), key).to_json().encode()


def test_a_provenance_names_every_locked_package_by_its_hash() -> None:
    dependencies = statement().predicate["buildDefinition"]["resolvedDependencies"]
    digests = {value for one in dependencies for value in one["digest"].values()}

    assert {package.sha256 for package in planned().lock.packages} <= digests
    assert any(one["uri"] == "pkg:npm/haraka@3.3.4" for one in dependencies)
    assert all(len(one["digest"].get("sha512", "0" * 128)) == 128 for one in dependencies)


def test_the_same_build_says_the_same_bytes() -> None:
    again = provenance(planned(), inputs_of(REFERENCE), IMAGES, (NPM_PROJECT / NPM_LOCK).read_text())

    assert again.to_bytes() == statement().to_bytes()
    assert Statement.from_bytes(again.to_bytes()) == statement()


def test_a_claim_that_fits_has_no_obstacle_and_is_not_refuted() -> None:
    claim = read_claim(envelope(), [KEY.public], source="x")

    assert claim.signed
    assert claim.obstacles(planned(), inputs_of(REFERENCE)) == ()
    assert claim.refuted(IMAGES) == ()
    assert claim.refuted({Role.CLIENT: IMAGES[Role.CLIENT]}) == ()


def test_other_bytes_refute_a_claim() -> None:
    claim = read_claim(envelope(), [], source="x")

    assert not claim.signed
    assert claim.refuted(IMAGES | {Role.CLIENT: "3" * 64}) == (f"client came out as {'3' * 64}, claimed is {'2' * 64}",)


def test_other_files_and_another_builder_are_named_before_anything_is_built() -> None:
    claim, inputs = read_claim(envelope(), [], source="x"), inputs_of(REFERENCE)
    changed = {"topology.toml": b"x", "root.pem": b"", "topology.lock": inputs["topology.lock"]}

    assert claim.obstacles(planned(), changed) == (
        "root.pem is not part of it",
        "topology.public.toml is missing",
        "topology.toml is another one",
    )
    (said,) = claim.obstacles(planned(1300), inputs)
    assert said.endswith("makes client-difference, client-image, proxy-difference, proxy-image in another way")


def test_only_a_trusted_key_is_believed_when_keys_are_trusted() -> None:
    other = SigningKey(Ed25519PrivateKey.from_private_bytes(b"o" * 32))
    for content in (envelope(None), envelope(other)):
        with pytest.raises(UntrustedError, match=r"x\.json: "):
            read_claim(content, [KEY.public], source="x.json")


def test_what_is_no_provenance_is_one_sentence() -> None:
    test_result = Statement(subject=(subject("a", "0" * 64),), predicate_type="test", predicate={})
    empty = statement().model_copy(update={"predicate": {"buildDefinition": {}}})
    for said, content in (
        ("is no signed statement", "{}"),
        ("holds 'text/plain'", sign("text/plain", b"", None).to_json()),
        ("is no in-toto statement", sign(PAYLOAD_TYPE, b"{}", None).to_json()),
        ("says 'test'", sign(PAYLOAD_TYPE, test_result.to_bytes(), None).to_json()),
        ("is no provenance of images", sign(PAYLOAD_TYPE, empty.to_bytes(), None).to_json()),
    ):
        with pytest.raises(ImagebuilderError, match=f"x {said}"):
            read_claim(content.encode(), [], source="x")


def test_the_envelope_is_what_other_tools_read() -> None:
    told = json.loads(Envelope.from_json(envelope()).payload)

    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [one["name"] for one in told["subject"]] == ["proxy", "client"]
