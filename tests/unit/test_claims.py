import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imagebuilder.cli import main
from imagebuilder.commands.claims import claim_in, claim_line
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import inputs_of
from imagebuilder.generations import NPM_LOCK
from imagebuilder.plan import NPM_PROJECT
from imagebuilder.statements.intoto import PAYLOAD_TYPE
from imagebuilder.statements.provenance import provenance
from imagebuilder.statements.signing import SigningKey, UntrustedError, sign
from imagebuilder.topology import Role

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"k" * 32))
IMAGES = {Role.PROXY: "1" * 64, Role.CLIENT: "2" * 64}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Give a copy of the reference with, beside it, what somebody claims of it: signed and unsigned."""
    monkeypatch.delenv("IMAGEBUILDER_TRUSTED_KEYS", raising=False)
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    for suffix in (".toml", ".lock", ".public.toml"):
        shutil.copy(REFERENCE.with_suffix(suffix), tmp_path / f"topology{suffix}")
    files = Files(tmp_path / "topology.toml")
    said = provenance(files.plan(), inputs_of(files), IMAGES, (NPM_PROJECT / NPM_LOCK).read_text()).to_bytes()
    (tmp_path / "signed.json").write_text(sign(PAYLOAD_TYPE, said, KEY).to_json())
    (tmp_path / "unsigned.json").write_text(sign(PAYLOAD_TYPE, said, None).to_json())
    public = KEY.public.key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (tmp_path / "trusted").write_bytes(public)
    return files


def test_a_claim_about_these_files_is_taken_up_and_told(files: Files, tmp_path: Path) -> None:
    signed = claim_in(tmp_path / "signed.json", tmp_path / "trusted", files)
    unsigned = claim_in(tmp_path / "unsigned.json", None, files)

    assert claim_line(signed, signed.refuted(IMAGES)) == "provenance  confirmed, signed by a trusted key"
    assert claim_line(unsigned, ()) == "provenance  confirmed, its signature not looked at"
    assert claim_line(signed, signed.refuted({Role.PROXY: "3" * 64})).startswith("provenance  REFUTED: proxy came out")


def test_an_unsigned_claim_does_not_count_where_keys_are_trusted(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match="nobody has signed this"):
        claim_in(tmp_path / "unsigned.json", tmp_path / "trusted", files)


def test_a_claim_about_other_files_ends_before_anything_is_built(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = files.topology.read_text()
    files.topology.write_text(text.replace("mtu = 1420", "mtu = 1300"))

    assert main(["verify", "-t", str(files.topology), "--provenance", str(tmp_path / "signed.json")]) == 2
    assert "is about another build: topology.toml is another one" in capsys.readouterr().err
    assert main(["verify", "-t", str(files.topology), "--provenance", str(tmp_path / "none.json")]) == 2
    assert "none.json can't be read: no such file" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
