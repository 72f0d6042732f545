"""The values of the proxy's services."""

from typing import Any

import pytest

from imagebuilder.secrets.keys import new_secrets, public_keys
from imagebuilder.services import Site
from imagebuilder.services.caddy import caddy_values
from imagebuilder.services.certificate import certificate_values
from imagebuilder.services.firewall_proxy import firewall_proxy_values
from imagebuilder.services.haproxy import haproxy_values
from imagebuilder.services.haraka_in import haraka_in_values
from imagebuilder.services.haraka_out import haraka_out_values
from imagebuilder.services.network_proxy import Route, network_proxy_values
from imagebuilder.topology import PublicKeys, Role, Topology


def topology(domains: tuple[dict[str, Any], ...] = ({"name": "example.org"},), **proxy: Any) -> Topology:  # noqa: ANN401
    addresses = {"ipv4": "198.18.0.10/24", "ipv4_gateway": "198.18.0.1"}
    return Topology.model_validate({
        "proxy": {"hostname": "mail.example.org", **addresses, **proxy},
        "client": {"hostname": "home.example.org"},
        "mail": {"domains": domains, "mailboxes": [{"address": f"alice@{domains[0]['name']}"}]},
        "admin": {"email": f"alice@{domains[0]['name']}"},
    })  # fmt: skip


KEYS: PublicKeys = public_keys(new_secrets(topology()))


def site(topology: Topology, role: Role = Role.PROXY) -> Site:
    return Site(topology, KEYS, role)


TWO = ({"name": "example.org"}, {"name": "another.example", "max_message_mib": 50})


def test_every_hosted_domain_is_accepted_and_the_largest_limit_counts() -> None:
    values = haraka_in_values(site(topology(TWO)))

    assert values.hosted_domains == ("another.example", "example.org")
    assert values.max_message_bytes == 50 * 1024 * 1024
    assert values.postmaster == "postmaster@example.org"


def test_addresses_that_the_client_trusts_are_never_announced() -> None:
    assert haraka_in_values(site(topology())).refused_networks == (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/24",
        "fd3b:9c0e:52a7::/64",
    )


def test_the_way_out_takes_what_the_way_in_took_and_the_headers_added_since() -> None:
    there, back = haraka_in_values(site(topology(TWO))), haraka_out_values(site(topology(TWO)))

    assert back.max_message_bytes > there.max_message_bytes
    assert back.listen == "10.0.0.1:2526,[fd3b:9c0e:52a7::1]:2526"
    assert back.client_addresses == ("10.0.0.2/32", "fd3b:9c0e:52a7::2/128")


@pytest.mark.parametrize(
    ("proxy", "family"),
    [({}, "v4"), ({"ipv6": "2001:2:0:1::10/64", "ipv6_gateway": "fe80::1"}, "default")],
)
def test_ipv6_is_only_tried_by_a_proxy_that_has_it(proxy: dict[str, Any], family: str) -> None:
    assert haraka_out_values(site(topology(**proxy))).preferred_family == family


def test_users_come_by_the_clients_ports_for_the_proxy_protocol() -> None:
    values = haproxy_values(site(topology()))

    assert (values.client_submission_port, values.client_imaps_port) == (10587, 10993)


def test_the_web_front_and_the_certificate_have_the_same_names() -> None:
    here = site(topology(TWO))

    assert caddy_values(here).names == certificate_values(here).names
    assert caddy_values(here).names[0] == "mail.example.org"
    assert "mta-sts.another.example" in caddy_values(here).names


def test_the_clients_certificate_has_the_mail_hosts_name_alone() -> None:
    assert certificate_values(site(topology(TWO), Role.CLIENT)).names == ("mail.example.org",)


def test_a_gateway_in_the_prefix_needs_no_mention_and_one_outside_is_on_the_link() -> None:
    proxy: dict[str, Any] = {"ipv4": "198.18.0.10/32", "ipv6": "2001:2:0:1::10/64"}

    near = network_proxy_values(site(topology(ipv6="2001:2:0:1::10/64", ipv6_gateway="fe80::1")))
    far = network_proxy_values(site(topology(**proxy, ipv6_gateway="2001:2:0:2::1")))

    assert near.routes == (Route("198.18.0.1", on_link=False), Route("fe80::1", on_link=False))
    assert far.routes == (Route("198.18.0.1", on_link=True), Route("2001:2:0:2::1", on_link=True))


def test_with_dhcp_nothing_is_set_and_the_firewall_lets_its_answers_in() -> None:
    here = site(topology(dhcp=True, ipv4_gateway=None))

    assert network_proxy_values(here) == network_proxy_values(here).__class__(dhcp=True, addresses=(), routes=())
    assert firewall_proxy_values(here).dhcp


def test_segments_leave_room_for_their_headers() -> None:
    values = firewall_proxy_values(site(topology()))

    assert (values.segment_4, values.segment_6) == (1380, 1360)
