"""The real programs accept the proxy's configuration."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from imagebuilder.render import render_service
from imagebuilder.secrets.keys import new_secrets, public_keys
from imagebuilder.services import Site, firewall_proxy
from imagebuilder.topology import Role, load_topology
from tests.accept.proxy_room import Room, told_in_a_room

pytestmark = pytest.mark.accept

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"

OWN_UNITS = (
    "haraka-in.service",
    "haraka-out.service",
    "first-certificate.service",
    "new-certificate.path",
    "new-certificate.service",
    "haproxy.service",
    "caddy.service",
)


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
def test_nft_takes_the_firewall_of_a_proxy_that_gets_its_addresses_by_dhcp(room: Room) -> None:
    topology = load_topology(REFERENCE)
    proxy = topology.proxy.model_copy(update={"dhcp": True})
    site = Site(topology.model_copy(update={"proxy": proxy}), public_keys(new_secrets(topology)), Role.PROXY)
    rules = render_service(firewall_proxy.SERVICE, site).files[PurePosixPath("etc/nftables.conf")].content
    assert b"nd-router-advert" in rules
    (room.roots[Role.PROXY] / "run/other.conf").write_bytes(rules)

    room.in_root(Role.PROXY, ["nft", "-c", "-f", "/run/other.conf"])


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
        Role.PROXY, ["openssl", "x509", "-in", "/var/lib/certificate/mail.pem", "-noout", "-ext", "subjectAltName"]
    )
    other = room.in_root(
        Role.CLIENT, ["openssl", "x509", "-in", "/var/lib/certificate/mail.pem", "-noout", "-ext", "subjectAltName"]
    )

    names = ("mail", "autoconfig", "autodiscover", "mta-sts")
    assert said.stdout.decode().split("\n")[1].strip() == ", ".join(f"DNS:{name}.example.org" for name in names)
    assert other.stdout.decode().split("\n")[1].strip() == "DNS:mail.example.org"
    assert (folder / "mail.pem").stat().st_mode & 0o777 == 0o640
    assert (folder / "mail.pem").stat().st_gid == room.group(Role.PROXY, "certificate")
    assert sorted(path.name for path in folder.iterdir()) == ["mail.pem"]
