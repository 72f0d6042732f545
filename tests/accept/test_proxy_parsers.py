"""The real programs accept the proxy's configuration."""

from collections.abc import Iterator

import pytest

from imagebuilder.topology import Role
from tests.accept.proxy_room import Room, told_in_a_room

pytestmark = pytest.mark.accept

OWN_UNITS = ("haraka-in.service", "haraka-out.service", "first-certificate.service", "haproxy.service", "caddy.service")


def scripts(room: Room) -> Iterator[str]:
    """Yield the path in the image of each script of haraka-in."""
    root = room.roots[Role.PROXY]
    for path in sorted((root / "etc/haraka-in").rglob("*.js")):
        yield f"/{path.relative_to(root)}"


@told_in_a_room
def test_nft_takes_the_firewall_twice_and_ends_with_one_table(room: Room) -> None:
    room.in_root(Role.PROXY, ["nft", "-c", "-f", "/etc/nftables.conf"])
    room.in_root(Role.PROXY, ["nft", "-f", "/etc/nftables.conf"])

    rules = room.in_root(Role.PROXY, ["nft", "list", "ruleset"]).stdout.decode()

    assert rules.count("table ") == 1
    assert rules.count("policy drop;") == 2


@told_in_a_room
def test_haproxy_takes_its_configuration_without_a_warning(room: Room) -> None:
    done = room.in_root(Role.PROXY, ["haproxy", "-c", "-V", "-f", "/etc/haproxy/haproxy.cfg"])

    assert "Configuration file is valid" in done.stdout.decode()
    assert b"WARNING" not in done.stderr


@told_in_a_room
def test_caddy_takes_its_configuration(room: Room) -> None:
    room.certificate(Role.PROXY)

    done = room.in_root(
        Role.PROXY,
        ["env", "HOME=/tmp", "caddy", "validate", "--adapter", "caddyfile", "--config", "/etc/caddy/Caddyfile"],
    )

    assert b"Valid configuration" in done.stdout


@told_in_a_room
def test_node_reads_every_script(room: Room) -> None:
    found = list(scripts(room))

    for path in found:
        room.in_root(Role.PROXY, ["node", "--check", path])

    assert any(path.endswith("/plugins/tunnel.js") for path in found)


@told_in_a_room
def test_systemd_takes_the_units(room: Room) -> None:
    done = room.in_root(Role.PROXY, ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *OWN_UNITS])

    assert done.stderr.decode() == ""


@told_in_a_room
def test_the_certificate_names_every_public_name_and_only_its_group_reads_the_key(room: Room) -> None:
    room.certificate(Role.PROXY)
    room.certificate(Role.CLIENT)
    folder = room.roots[Role.PROXY] / "var/lib/certificate"

    said = room.in_root(
        Role.PROXY, ["openssl", "x509", "-in", "/var/lib/certificate/mail.crt", "-noout", "-ext", "subjectAltName"]
    )
    other = room.in_root(
        Role.CLIENT, ["openssl", "x509", "-in", "/var/lib/certificate/mail.crt", "-noout", "-ext", "subjectAltName"]
    )

    names = ("mail", "autoconfig", "autodiscover", "mta-sts")
    assert said.stdout.decode().split("\n")[1].strip() == ", ".join(f"DNS:{name}.example.org" for name in names)
    assert other.stdout.decode().split("\n")[1].strip() == "DNS:mail.example.org"
    assert (folder / "mail.key").stat().st_mode & 0o777 == 0o640
    assert (folder / "mail.key").stat().st_gid == room.group(Role.PROXY, "certificate")
    assert sorted(path.name for path in folder.iterdir()) == ["mail.crt", "mail.key"]
