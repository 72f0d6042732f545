"""Whom an address names, and what it means that ssh gave up."""

import pytest

from imagebuilder.shipping.remote import (
    Address,
    HostKeyError,
    LostError,
    NotThereError,
    RemoteError,
    explained,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://root@vps.example", Address("vps.example")),
        ("ssh://vps.example/", Address("vps.example")),
        ("vps.example", Address("vps.example")),
        ("debian@198.51.100.7", Address("198.51.100.7", "debian")),
        ("ssh://root@198.51.100.7:2222", Address("198.51.100.7", port=2222)),
        ("ssh://[2001:db8::7]:23", Address("2001:db8::7", port=23)),
    ],
)
def test_an_address_is_read_as_it_is_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(f"ssh://{address}") == address


@pytest.mark.parametrize(
    "text",
    ["", "ssh://", "https://vps.example", "ssh://a:b@vps.example", "ssh://vps/disk", "-oProxyCommand=x", "root@-x",
     "ssh://h:port", "ssh://[::1", "ssh://-x@vps.example", "a b", "ssh://vps.example?x"],
)  # fmt: skip
def test_what_names_no_host_is_wrong_input(text: str) -> None:
    with pytest.raises(NotThereError):
        parse_address(text)


def test_strictness_and_deadlines_are_always_asked_for() -> None:
    argv = Address("vps.example", "debian", 2222).argv("true")

    for setting in ("StrictHostKeyChecking=yes", "ConnectTimeout=15", "ServerAliveCountMax=3", "ForwardAgent=no"):
        assert setting in argv
    assert argv[-4:] == ["2222", "--", "debian@vps.example", "true"]


@pytest.mark.parametrize(
    ("said", "kind", "meaning"),
    [
        ("root@h: Permission denied (publickey).", RemoteError, "does not let this key in"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", HostKeyError,
         "has another host key"),
        ("No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
         HostKeyError, "has a host key that is not known here"),
        ("ssh: Could not resolve hostname h: Name or service not known", LostError, "has no address"),
        ("ssh: connect to host h port 22: Connection refused", LostError, "can't be reached: connect to host h"),
        ("kex_exchange_identification: Connection closed by remote host", LostError, "can't be reached"),
        ("", LostError, "was lost"),
    ],
)  # fmt: skip
def test_what_ssh_says_becomes_a_sentence_with_a_hint(said: str, kind: type, meaning: str) -> None:
    error = explained(Address("h"), said.splitlines(), 255)

    assert type(error) is kind
    assert meaning in str(error)
    assert "\n" not in str(error)
    assert error.hint
    assert "HOST" not in error.hint
