"""Rules across the tables of a topology."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.topology.load import judged

SMALL = Path(__file__).parent.parent / "topologies/small.toml"
ALICE, BOB = "alice@example.org", "bob@example.org"


def site(
    *,
    proxy: dict[str, object] | None = None,
    client: dict[str, object] | None = None,
    tunnel: dict[str, object] | None = None,
    admin: dict[str, object] | None = None,
    mail: dict[str, object] | None = None,
) -> dict[str, Any]:
    """Return the small topology with keys replaced, or left out where None is given."""
    document = tomllib.loads(SMALL.read_text())
    for name, changes in {"proxy": proxy, "client": client, "tunnel": tunnel, "admin": admin, "mail": mail}.items():
        table = document[name] | (changes or {})
        document[name] = {key: value for key, value in table.items() if value is not None}
    return document


def problems(document: dict[str, Any]) -> dict[str, str]:
    found = judged(document)[1]
    assert len({problem.place for problem in found}) == len(found), f"one place has several problems: {found}"
    return {problem.place: problem.message for problem in found}


def aliases(**targets: list[str]) -> list[dict[str, object]]:
    return [{"address": f"{name}@example.org", "targets": wanted} for name, wanted in targets.items()]


def test_the_suite_that_cannot_be_built_is_refused_with_the_one_that_can() -> None:
    assert problems(site(client={"suite": "mailcow"})) == {
        "client.suite": "'mailcow' can't be built yet; use 'native', Debian's own engines"
    }


def test_junk_begins_below_what_is_refused() -> None:
    document = site() | {"filter": {"reject_score": 8, "junk_score": 9}}

    assert set(problems(document)) == {"filter.junk_score"}


def test_mail_goes_through_one_relay_at_most() -> None:
    one, other = {"host": "smtp.example.com"}, {"host": "smtp.example.net", "domains": ["big.example"]}
    base = site()["mail"]

    assert problems(site(mail=base | {"relays": [one, other]})) == {}
    assert set(problems(site(mail=base | {"relays": [one, other, one, other]}))) == {
        "mail.relays[2].domains", "mail.relays[3].domains",
    }  # fmt: skip


# --- host names


def test_two_hosts_never_share_a_name() -> None:
    assert set(problems(site(client={"hostname": "MAIL.example.org"}))) == {"client.hostname"}


@pytest.mark.parametrize("name", ["mail.elsewhere.test", "example.com", "mail.notexample.org", "org.example"])
def test_a_host_name_outside_all_own_domains_is_refused(name: str) -> None:
    assert "is in none of your domains" in problems(site(proxy={"hostname": name}))["proxy.hostname"]


def test_a_slip_in_a_host_name_gets_the_domain_that_was_meant() -> None:
    found = problems(site(proxy={"hostname": "mail.exmaple.org"}))

    assert found == {"proxy.hostname": "'mail.exmaple.org' is in none of your domains; did you mean 'example.org'?"}


def test_a_host_name_may_lie_in_a_declared_domain() -> None:
    assert problems(site(proxy={"hostname": "mx.example.net"}, admin={"domains": ["example.net"]})) == {}


@pytest.mark.parametrize("name", ["box.home.arpa", "box.internal"])
def test_the_client_may_have_a_name_for_the_home_only_and_the_proxy_may_not(name: str) -> None:
    assert problems(site(client={"hostname": name})) == {}
    assert set(problems(site(proxy={"hostname": name}))) == {"proxy.hostname"}


def test_a_host_name_that_the_kernel_cannot_hold_is_refused() -> None:
    assert (
        "more than 64 characters" in problems(site(client={"hostname": f"{'a' * 55}.example.org"}))["client.hostname"]
    )


def test_a_host_is_not_called_like_a_web_service() -> None:
    assert "web service" in problems(site(proxy={"hostname": "autoconfig.example.org"}))["proxy.hostname"]


# --- addresses and routers


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("198.18.0.0/24", "the address of the network"),
        ("198.18.0.255/24", "the broadcast address"),
        ("127.0.0.1/8", "a loopback address"),
        ("0.0.0.0/0", "the unspecified address"),
        ("0.1.2.3/24", "a reserved address"),
        ("224.0.0.5/24", "a multicast address"),
        ("250.0.0.5/24", "a reserved address"),
        ("255.255.255.255/32", "a reserved address"),
        ("169.254.1.1/16", "a link-local address"),
    ],
)
def test_the_proxy_cannot_have_an_address_that_nobody_reaches(address: str, said: str) -> None:
    found = judged(site(proxy={"ipv4": address, "dhcp": True, "ipv4_gateway": None}))[1]

    assert any(problem.place == "proxy.ipv4" and said in problem.message for problem in found)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("2001:2:0:1::/64", "the address of the network"),
        ("::/64", "the unspecified address"),
        ("::1/64", "a loopback address"),
        ("fe80::10/64", "a link-local address"),
        ("ff02::1/64", "a multicast address"),
        ("::ffff:198.18.0.10/96", "in the guise of IPv6"),
    ],
)
def test_neither_can_it_have_such_an_ipv6_address(address: str, said: str) -> None:
    assert said in problems(site(proxy={"ipv6": address, "ipv6_gateway": "fe80::1"}))["proxy.ipv6"]


@pytest.mark.parametrize("address", ["198.18.0.0/31", "198.18.0.1/31", "198.18.0.255/32", "198.18.0.255/16"])
def test_ends_of_networks_without_broadcast_are_addresses_like_others(address: str) -> None:
    assert problems(site(proxy={"ipv4": address, "dhcp": True, "ipv4_gateway": None})) == {}


@pytest.mark.parametrize(
    ("router", "said"),
    [
        (None, "is missing; proxy.ipv4 needs a router unless dhcp is true"),
        ("198.18.0.10", "the host's own address"),
        ("198.18.1.1", "is not in 198.18.0.0/24"),
        ("198.18.0.0", "no host's address"),
        ("198.18.0.255", "no host's address"),
        ("0.0.0.0", "the unspecified address"),
        ("127.0.0.1", "a loopback address"),
    ],
)
def test_a_router_that_cannot_work_is_refused(router: str | None, said: str) -> None:
    assert said in problems(site(proxy={"ipv4_gateway": router}))["proxy.ipv4_gateway"]


def test_with_dhcp_no_router_is_needed() -> None:
    assert problems(site(proxy={"dhcp": True, "ipv4_gateway": None, "ipv6_gateway": None})) == {}


def test_the_router_of_a_single_address_may_be_anywhere() -> None:
    proxy = {"ipv4": "198.18.0.10/32", "ipv4_gateway": "198.19.0.1"}
    proxy |= {"ipv6": "2001:2:0:1::10/128", "ipv6_gateway": "2001:2:0:ff::1"}

    assert problems(site(proxy=proxy)) == {}  # type: ignore[arg-type]


def test_a_link_local_router_is_usual_for_ipv6() -> None:
    assert problems(site(proxy={"ipv6_gateway": "fe80::1"})) == {}


def test_a_router_without_its_address_is_refused_and_so_is_the_reverse() -> None:
    assert set(problems(site(proxy={"ipv6": None}))) == {"proxy.ipv6_gateway"}
    assert set(problems(site(proxy={"ipv6_gateway": None}))) == {"proxy.ipv6_gateway"}
    assert set(problems(site(client={"ipv4_gateway": "192.168.1.1"}))) == {"client.ipv4_gateway"}
    assert set(problems(site(client={"ipv4": "192.168.1.20/24"}))) == {"client.ipv4_gateway"}


def test_a_client_with_a_fixed_private_address_is_fine() -> None:
    assert problems(site(client={"ipv4": "192.168.1.20/24", "ipv4_gateway": "192.168.1.1"})) == {}


# --- the tunnel


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("198.51.100.0/24", "is not private"),
        ("0.0.0.0/0", "is not private"),
        ("10.0.0.0/7", "is not private"),
        ("8.0.0.0/7", "is not private"),
        ("127.0.0.0/8", "is not private"),
        ("10.0.0.0/31", "has no room for two hosts"),
        ("10.0.0.0/32", "has no room for two hosts"),
    ],
)
def test_the_tunnel_needs_a_private_network_for_two(network: str, said: str) -> None:
    found = judged(site(tunnel={"network": network}))[1]

    assert {problem.place for problem in found} == {"tunnel.network"}
    assert any(said in problem.message for problem in found)


@pytest.mark.parametrize("network", ["10.0.0.0/30", "172.31.255.0/24", "192.168.77.0/24", "100.64.0.0/10"])
def test_any_private_network_for_two_will_do(network: str) -> None:
    assert problems(site(tunnel={"network": network})) == {}


def test_the_tunnel_is_neither_in_the_public_nor_in_the_home_network() -> None:
    home: dict[str, object] = {"ipv4": "10.0.5.20/16", "ipv4_gateway": "10.0.0.1"}
    public: dict[str, object] = {"ipv4": "10.0.0.200/24", "ipv4_gateway": "10.0.0.254"}

    assert "the network of client.ipv4" in problems(site(client=home))["tunnel.network"]
    assert "the network of proxy.ipv4" in problems(site(proxy=public))["tunnel.network"]


def test_the_router_of_a_single_address_is_not_inside_the_tunnel() -> None:
    found = problems(site(proxy={"ipv4": "198.18.0.10/32", "ipv4_gateway": "10.0.0.9"}))

    assert "proxy.ipv4_gateway" in found["tunnel.network"]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("2001:db8::/64", "is not private"),
        ("fd00:1::/127", "has no room for two hosts"),
        ("fd00:2::/48", "the network of proxy.ipv6"),
        ("fd00:3::/64", "proxy.ipv6_gateway"),
    ],
)
def test_the_tunnels_ipv6_network_is_private_has_room_and_is_nobody_elses(network: str, said: str) -> None:
    inside: dict[str, object] = {"ipv6": "fd00:2::10/64", "ipv6_gateway": "fd00:2::1"}
    single: dict[str, object] = {"ipv6": "2001:2:0:1::10/128", "ipv6_gateway": "fd00:3::1"}
    for proxy in (inside, single):
        found = problems(site(proxy=proxy, tunnel={"network_ipv6": network}))
        if said in found.get("tunnel.network_ipv6", ""):
            return
    pytest.fail(f"nothing is said of {network}")


@pytest.mark.parametrize("port", [22, 443])
def test_the_tunnel_takes_no_port_of_another_service(port: int) -> None:
    assert "is the port of" in problems(site(tunnel={"port": port}))["tunnel.port"]


# --- domains and addresses


def test_a_domain_stands_there_once() -> None:
    found = problems(site(mail={"domains": [{"name": "example.org"}, {"name": "EXAMPLE.org"}]}))

    assert found == {"mail.domains[1].name": "'example.org' stands already in mail.domains[0].name"}


def test_a_domain_that_is_a_web_service_of_another_is_refused() -> None:
    domains = [{"name": "example.org"}, {"name": "autodiscover.example.org"}]

    assert set(problems(site(mail={"domains": domains}))) == {"mail.domains[1].name"}


def test_a_domain_leaves_room_for_its_dkim_record() -> None:
    name = ".".join(["a" * 59] * 4)
    domains = [{"name": "example.org"}, {"name": f"{name}.org"}]

    assert "too long" in problems(site(mail={"domains": domains}))["mail.domains[1].name"]


def test_an_address_that_stands_twice_is_named_with_both_places() -> None:
    boxes = [{"address": ALICE, "aliases": ["a@example.org"]}, {"address": BOB, "aliases": ["A@example.org", ALICE]}]
    more = [*aliases(bob=[ALICE], team=[ALICE]), *aliases(team=[BOB])]

    assert problems(site(mail={"mailboxes": boxes, "aliases": more})) == {
        "mail.mailboxes[1].aliases[0]": "'a@example.org' stands already in mail.mailboxes[0].aliases[0]",
        "mail.mailboxes[1].aliases[1]": "'alice@example.org' stands already in mail.mailboxes[0].address",
        "mail.aliases[0].address": "'bob@example.org' stands already in mail.mailboxes[1].address",
        "mail.aliases[2].address": "'team@example.org' stands already in mail.aliases[1].address",
    }


def test_every_own_address_is_in_a_mail_domain() -> None:
    boxes = [{"address": ALICE, "aliases": ["a@other.test"]}, {"address": "zoe@exampl.org"}]
    more = [{"address": "x@other.test", "targets": [ALICE]}]

    found = problems(site(mail={"mailboxes": boxes, "aliases": more}))

    assert set(found) == {"mail.mailboxes[0].aliases[0]", "mail.mailboxes[1].address", "mail.aliases[0].address"}
    assert found["mail.mailboxes[1].address"].endswith("did you mean 'example.org'?")
    assert found["mail.aliases[0].address"].endswith("there are example.org")


@pytest.mark.parametrize("name", ["a/b", "a+b", "#a", "{a}", "a%b", "-a", "$a", "a'b"])
def test_a_mailbox_has_a_name_that_needs_no_quoting_anywhere(name: str) -> None:
    boxes = [{"address": ALICE}, {"address": f"{name}@example.org"}]

    assert set(problems(site(mail={"mailboxes": boxes, "aliases": []}))) == {"mail.mailboxes[1].address"}


@pytest.mark.parametrize(("name", "fine"), [("a+b", True), ("o'neill", True), ("#a", False), ("a/b", False)])
def test_an_alias_may_have_a_little_more(name: str, fine: bool) -> None:
    assert (problems(site(mail={"aliases": aliases(**{name: [ALICE]})})) == {}) is fine


def test_a_catch_all_is_a_mailbox_that_takes_mail() -> None:
    def caught(by: str, **keys: object) -> dict[str, str]:
        boxes = [{"address": ALICE}, {"address": BOB, **keys}]
        return problems(site(mail={"domains": [{"name": "example.org", "catch_all": by}], "mailboxes": boxes}))

    assert caught(BOB) == {}
    assert (
        "is the address of no mailbox; did you mean 'bob@example.org'?"
        in caught("bbo@example.org")["mail.domains[0].catch_all"]
    )
    assert "is the address of no mailbox" in caught("team@example.org")["mail.domains[0].catch_all"]
    assert "is send-only" in caught(BOB, send_only=True)["mail.domains[0].catch_all"]


def test_targets_in_own_domains_exist() -> None:
    found = problems(site(mail={"aliases": aliases(team=[ALICE, "bo@example.org", "nobody@example.org"])}))

    assert set(found) == {"mail.aliases[0].targets[1]", "mail.aliases[0].targets[2]"}
    assert found["mail.aliases[0].targets[1]"].endswith("did you mean 'bob@example.org'?")


@pytest.mark.parametrize(
    "target",
    ["someone@elsewhere.test", "a.liddell@example.org", "bob+lists@example.org", "postmaster@example.org"],
)
def test_targets_may_be_elsewhere_or_aliases_or_details_or_standing_addresses(target: str) -> None:
    assert problems(site(mail={"aliases": aliases(team=[target])})) == {}


def test_with_a_catch_all_every_target_in_the_domain_exists() -> None:
    domains = [{"name": "example.org", "catch_all": BOB}]

    assert problems(site(mail={"domains": domains, "aliases": aliases(team=["any@example.org"])})) == {}


def test_a_send_only_mailbox_is_no_target_under_any_of_its_names() -> None:
    boxes = [{"address": ALICE}, {"address": "shop@example.org", "aliases": ["store@example.org"], "send_only": True}]
    more = aliases(a=["shop@example.org"], b=["store@example.org"], c=["shop+x@example.org"])

    found = problems(site(mail={"mailboxes": boxes, "aliases": more}))

    assert set(found) == {f"mail.aliases[{index}].targets[0]" for index in range(3)}
    assert all("is send-only; mail to it is refused" in message for message in found.values())


def test_a_target_named_twice_is_a_slip() -> None:
    assert set(problems(site(mail={"aliases": aliases(team=[ALICE, BOB, ALICE])}))) == {"mail.aliases[0].targets[2]"}


def test_a_loop_of_aliases_is_shown_once_all_around() -> None:
    more = aliases(a=["b@example.org", ALICE], b=["c+x@example.org"], c=["a@example.org"], d=["a@example.org"])

    assert problems(site(mail={"aliases": more})) == {
        "mail.aliases[0].targets": "mail would go round for ever: "
        "a@example.org → b@example.org → c@example.org → a@example.org"
    }


def test_an_alias_for_itself_is_a_loop() -> None:
    assert (
        "a@example.org → a@example.org"
        in problems(site(mail={"aliases": aliases(a=["a@example.org"])}))["mail.aliases[0].targets"]
    )


def test_the_administrator_gets_mail() -> None:
    assert problems(site(admin={"email": "root@elsewhere.test"})) == {}
    assert problems(site(admin={"email": "team@example.org"})) == {}
    assert "neither mailbox nor alias" in problems(site(admin={"email": "root@example.org"}))["admin.email"]
    assert "round for ever" in problems(site(admin={"email": "postmaster@example.org"}))["admin.email"]


def test_a_loop_over_the_standing_addresses_is_seen() -> None:
    document = site(admin={"email": "team@example.org"}, mail={"aliases": aliases(team=["abuse@example.org"])})

    assert "abuse@example.org" in problems(document)["mail.aliases[0].targets"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3)),
                max_size=6, unique_by=lambda row: row[0]))  # fmt: skip
@settings(deadline=None)
def test_a_loop_is_reported_exactly_when_following_targets_comes_back(rows: list[tuple[str, list[str]]]) -> None:
    targets = {name: sorted(set(wanted)) for name, wanted in rows}
    more = [
        {"address": f"{n}@example.org", "targets": [f"{t}@example.org" for t in wanted]}
        for n, wanted in targets.items()
    ]

    reported = any("round for ever" in problem.message for problem in judged(site(mail={"aliases": more}))[1])

    remaining = set(targets)
    while ends := {name for name in remaining if not remaining & set(targets[name])}:
        remaining -= ends
    assert reported is bool(remaining)


def test_thousands_of_aliases_in_a_row_are_followed_to_their_end_and_around() -> None:
    names = [f"a{index}@example.org" for index in range(3000)]
    row = [{"address": name, "targets": [target]} for name, target in zip(names, [*names[1:], ALICE], strict=True)]
    assert problems(site(mail={"aliases": row})) == {}

    row[-1]["targets"] = [names[0]]
    assert list(problems(site(mail={"aliases": row}))) == ["mail.aliases[0].targets"]
