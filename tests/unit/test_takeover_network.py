"""The settings of a network card are read from what ip prints, and written down for systemd-networkd."""

import json

from imagebuilder.shipping.takeover.network import Network, network_of, settings_file, told
from tests.unit.takeovers import LOOPBACK, MAC, address, card, default, stock


def network(
    *addresses: dict[str, object], routes: list[object], routes6: list[object] | None = None, mtu: int = 1500
) -> Network:
    """Return what is read from a machine with these."""
    entries = json.dumps([LOOPBACK, card(*addresses, mtu=mtu)])
    return network_of(stock(addresses=entries, routes=json.dumps(routes), routes6=json.dumps(routes6 or [])))


def written(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the settings in a file of systemd-networkd, by section; the same key may come again."""
    found: dict[str, list[tuple[str, str]]] = {}
    section = ""
    for line in filter(None, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
            section += "" if section not in found else str(len(found))
            found[section] = []
        else:
            key, _, value = line.partition("=")
            found[section].append((key, value))
    return found


def test_fixed_addresses_and_routers_are_taken_as_they_are() -> None:
    file = written(settings_file(network_of(stock()), fixed=False))

    assert file["Match"] == [("MACAddress", MAC), ("Kind", "!*")]
    assert [value for key, value in file["Network"] if key == "Address"] == ["198.18.0.10/24", "2001:2:0:1::10/64"]
    assert ("DHCP", "no") in file["Network"]
    assert ("IPv6AcceptRA", "no") in file["Network"]
    assert file["Route"] == [("Gateway", "198.18.0.1")]
    assert [values for name, values in file.items() if name.startswith("Route")][1] == [("Gateway", "2001:2:0:1::1")]
    assert "Link" not in file


def test_a_single_address_reaches_its_router_all_the_same() -> None:
    single = network(
        address("203.0.113.9", 32),
        address("2001:db8::9", 128),
        routes=[default("10.255.255.1", flags=["onlink"])],
        routes6=[default("fe80::1")],
    )

    text = settings_file(single, fixed=False)

    assert "Gateway=10.255.255.1\nGatewayOnLink=yes" in text
    assert "Gateway=fe80::1\n" in text
    assert "Gateway=fe80::1\nGatewayOnLink" not in text


def test_a_line_between_two_points_needs_no_router() -> None:
    text = settings_file(network(address("203.0.113.9", 32), routes=[default(None, scope="link")]), fixed=False)

    assert written(text)["Route"] == [("Destination", "0.0.0.0/0"), ("Scope", "link")]


def test_what_was_handed_out_is_asked_for_again_but_stays_fixed_in_the_installer() -> None:
    leased = network(
        address("203.0.113.9", 24, dynamic=True),
        routes=[default("203.0.113.1", protocol="dhcp")],
        mtu=1450,
    )

    later, now = (written(settings_file(leased, fixed=fixed)) for fixed in (False, True))

    assert ("DHCP", "ipv4") in later["Network"]
    assert not [value for key, value in later["Network"] if key == "Address"]
    assert "Route" not in later
    assert ("DHCP", "no") in now["Network"]
    assert ("Address", "203.0.113.9/24") in now["Network"]
    assert now["Route"] == [("Gateway", "203.0.113.1")]
    assert later["Link"] == now["Link"] == [("MTUBytes", "1450")]


def test_an_advertised_router_is_listened_for_and_the_address_stays_what_it_was() -> None:
    advertised = network(
        address("203.0.113.9", 24),
        address("2001:db8::1234", 64, dynamic=True, mngtmpaddr=True),
        address("2001:db8::abcd", 64, dynamic=True, temporary=True),
        routes=[default("203.0.113.1")],
        routes6=[default("fe80::1", protocol="ra", metric=1024)],
    )

    file = written(settings_file(advertised, fixed=False))

    assert ("IPv6AcceptRA", "yes") in file["Network"]
    assert [value for key, value in file["Network"] if key == "Address"] == ["203.0.113.9/24", "2001:db8::1234/64"]
    assert ("UseAutonomousPrefix", "no") in file["IPv6AcceptRA"]
    assert [values for name, values in file.items() if name.startswith("Route")] == [[("Gateway", "203.0.113.1")]]


def test_the_best_of_several_routers_counts() -> None:
    several = network(
        address("203.0.113.9", 24), routes=[default("203.0.113.2", metric=200), default("203.0.113.1", metric=100)]
    )

    assert [str(way.address) for way in several.routers] == ["203.0.113.1"]


def test_people_are_told_in_one_line() -> None:
    assert told(network_of(stock())) == (
        f"198.18.0.10/24, 2001:2:0:1::10/64 through 198.18.0.1, 2001:2:0:1::1, card {MAC}"
    )
