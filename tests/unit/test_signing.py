import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.errors import ImagebuilderError
from imagebuilder.statements.signing import (
    Envelope,
    KeyFileError,
    SigningKey,
    UntrustedError,
    configured_signing_key,
    configured_trusted_keys,
    read_public_keys,
    read_signing_key,
    sign,
    verify,
)

ALICE = SigningKey(Ed25519PrivateKey.from_private_bytes(b"a" * 32))
MALLORY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"m" * 32))


def key_file(path: Path) -> Path:
    path.write_bytes(ALICE.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


def ssh_keygen(path: Path, *, passphrase: str = "") -> Path:
    if not shutil.which("ssh-keygen"):
        pytest.skip("no ssh-keygen on this machine")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True)
    return path


def public_line(key: SigningKey = ALICE) -> str:
    return key.public.key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@given(st.text(), st.binary())
def test_what_was_signed_comes_back_after_a_trip_through_json(kind: str, payload: bytes) -> None:
    envelope = Envelope.from_json(sign(kind, payload, ALICE).to_json())

    assert envelope.payload_type == kind
    assert verify(envelope, [MALLORY.public, ALICE.public]) == payload


@given(st.binary(min_size=1), st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_payload_is_refused(payload: bytes, place: int, flip: int) -> None:
    changed = bytearray(payload)
    changed[place % len(payload)] ^= flip
    envelope = sign("x", payload, ALICE).model_copy(update={"payload": bytes(changed)})

    with pytest.raises(UntrustedError, match="this has changed since"):
        verify(envelope, [ALICE.public])


def test_another_type_another_signer_and_no_signer_are_refused() -> None:
    signed = sign("x", b"hello", ALICE)
    for envelope, keys in (
        (signed.model_copy(update={"payload_type": "y"}), [ALICE.public]),
        (signed, [MALLORY.public]),
        (signed, []),
        (sign("x", b"hello", None), [ALICE.public]),
    ):
        with pytest.raises(UntrustedError):
            verify(envelope, keys)


def test_the_signed_bytes_are_those_of_the_specification() -> None:
    # DSSE protocol.md, test vector
    assert Envelope(payload_type="http://example.com/HelloWorld", payload=b"hello world").signed == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_from_elsewhere_may_be_url_safe_and_have_more_keys() -> None:
    told = json.loads(sign("x", b"\xff\xfe\xfb", ALICE).to_json())
    told["extra"] = 1
    told["payload"] = base64.urlsafe_b64encode(b"\xff\xfe\xfb").decode()

    assert verify(Envelope.from_json(json.dumps(told)), [ALICE.public]) == b"\xff\xfe\xfb"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"payload": "***", "payloadType": "x", "signatures": []}'])
def test_what_is_no_envelope_is_one_sentence(text: str) -> None:
    with pytest.raises(ImagebuilderError, match=r"x\.json is no signed statement"):
        Envelope.from_json(text, source="x.json")


def test_the_fingerprint_and_the_keys_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    path = ssh_keygen(tmp_path / "key")
    printed = subprocess.run(["ssh-keygen", "-l", "-f", path], check=True, capture_output=True, text=True).stdout

    key, public = read_signing_key(path), read_public_keys(path.with_suffix(".pub"))

    assert key.public.id == printed.split()[1]
    assert verify(sign("x", b"hello", key), public) == b"hello"


def test_public_keys_may_have_comments_and_empty_lines_between() -> None:
    text = f"# builders\n\n{public_line()} alice at home\n{public_line(MALLORY)}\n"

    alice, mallory = read_public_keys(text)

    assert (alice.id, alice.comment) == (ALICE.public.id, "alice at home")
    assert mallory.id == MALLORY.public.id


def test_every_line_without_a_usable_key_is_named(tmp_path: Path) -> None:
    ecdsa = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path = tmp_path / "keys"
    path.write_text(f"{public_line()}\nnonsense\n{ecdsa.decode()}\n")

    with pytest.raises(KeyFileError, match=r"keys has no public Ed25519 key in line 2, 3"):
        read_public_keys(path)


def test_keys_that_cannot_sign_are_one_sentence(tmp_path: Path) -> None:
    protected = ssh_keygen(tmp_path / "protected", passphrase="correct horse")
    ecdsa = tmp_path / "ecdsa"
    ecdsa.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    (tmp_path / "text").write_text("hello")

    for path, said in (
        (protected, "passphrase"),
        (ecdsa, "not an Ed25519 key"),
        (tmp_path / "text", "no private OpenSSH key"),
        (tmp_path / "missing", "no such file"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(KeyFileError, match=said):
            read_signing_key(path)


def test_keys_are_those_that_are_named_else_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGEBUILDER_SIGNING_KEY", raising=False)
    monkeypatch.delenv("IMAGEBUILDER_TRUSTED_KEYS", raising=False)
    assert configured_signing_key() is None
    assert configured_trusted_keys() == ()
    path = key_file(tmp_path / "key")
    (tmp_path / "trusted").write_text(public_line())
    monkeypatch.setenv("IMAGEBUILDER_SIGNING_KEY", str(path))
    monkeypatch.setenv("IMAGEBUILDER_TRUSTED_KEYS", str(tmp_path / "trusted"))

    key = configured_signing_key()

    assert key is not None
    assert [k.id for k in configured_trusted_keys()] == [key.public.id]
    assert configured_signing_key(path) is not None
