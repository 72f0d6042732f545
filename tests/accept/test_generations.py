"""Images made again from a generation, by the real tools."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from imagebuilder.cli import main
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.generations import Generations
from imagebuilder.pipeline import Built
from imagebuilder.statements.provenance import read_claim
from imagebuilder.statements.signing import read_signing_key
from imagebuilder.topology import Role
from tests.accept.conftest import copy_files


@pytest.fixture
def site(built: Built, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Path]:
    """Give a copy of the operator's files, of which the store forgets everything in the end."""
    topology = tmp_path / "topology.toml"
    copy_files(pytestconfig.getoption("--topology"), topology)
    yield topology
    generations = Generations(the_store(), topology)
    for generation in generations.all()[1:]:
        forget_images(generations, generation.number)
    shutil.rmtree(generations.folder)


def forget_images(generations: Generations, number: int) -> None:
    steps = generations.find(number).record.steps
    for role in Role:
        shutil.rmtree(the_store().root / f"outputs/{steps[f'{role}-image']}-{role}-image", ignore_errors=True)


@pytest.mark.accept
def test_a_generation_whose_images_are_gone_is_made_again_bit_by_bit(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generations, text = Generations(the_store(), site), site.read_text()
    assert main(["build", "-t", str(site)]) == 0
    # A value of its own, so that nobody else's images are removed below.
    site.write_text(text.replace("mtu = 1420", "mtu = 1331"))
    assert main(["build", "-t", str(site)]) == 0
    digests = generations.find(2).digests
    site.write_text("nothing of use")
    forget_images(generations, 2)
    capsys.readouterr()

    assert main(["build", "-t", str(site), "--generation", "2", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert {role: image["sha256"] for role, image in told["images"].items()} == digests
    assert len(generations.all()) == 2
    assert main(["diff", "-t", str(site), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(c["what"], c["old"], c["new"]) for c in found["topology"]] == [("tunnel.mtu", "1420", "1331")]
    assert found["partitions"] == {}
    assert found["unbuilt"] == []


@pytest.mark.accept
def test_the_provenance_of_a_build_is_signed_by_the_configured_key(site: Path, tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (tmp_path / "key").write_bytes(pem)
    key = read_signing_key(tmp_path / "key")

    assert main(["build", "-t", str(site), "--sign-with", str(tmp_path / "key")]) == 0

    generation = Generations(the_store(), site).find(1)
    claim = read_claim(generation.provenance.read_bytes(), [key.public], source="provenance.json")
    assert claim.obstacles(Files(site).plan(), generation.inputs()) == ()
    assert claim.refuted(generation.digests) == ()
