"""What the services of the client, and those of both hosts, make of a topology."""

import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.render import services_of
from imagebuilder.services import Site
from imagebuilder.services.clamav import clamav_values
from imagebuilder.services.dovecot import MailboxRow, dovecot_values, tmpfiles_argument
from imagebuilder.services.firewall_client import firewall_client_values
from imagebuilder.services.network_client import network_client_values
from imagebuilder.services.postfix import NOBODY, PostfixValues, mailboxes_behind, postfix_values
from imagebuilder.services.rspamd import DkimKey, rspamd_values
from imagebuilder.services.sshd import sshd_values
from imagebuilder.services.system import system_values
from imagebuilder.services.tunnel import tunnel_values
from imagebuilder.services.tunnel_way import tunnel_way_values
from imagebuilder.topology import PublicKeys, Role, Topology

PROXY_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
CLIENT_KEY = "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f test"

MAIL: dict[str, Any] = {
    "domains": [
        {"name": "example.org", "catch_all": "bob@example.org", "max_message_mib": 10},
        {"name": "club.example.net", "dkim_selector": "s1", "max_message_mib": 40},
    ],
    "mailboxes": [
        {"address": "alice@example.org", "aliases": ["a.liddell@example.org", "info@club.example.net"]},
        {"address": "bob@example.org", "quota_mib": 7, "sieve": "keep;\n"},
        {"address": "robot@example.org", "send_only": True},
    ],
    "aliases": [
        {"address": "team@example.org", "targets": ["bob@example.org", "a.liddell@example.org"]},
        {"address": "all@example.org", "targets": ["team@example.org", "robot@example.org"]},
        {"address": "away@example.org", "targets": ["friend@elsewhere.example"]},
    ],
}


def site(role: Role = Role.CLIENT, **tables: dict[str, Any]) -> Site:
    """Return a site of which *tables* replace the usual ones."""
    usual: dict[str, Any] = {
        "proxy": {"hostname": "mail.example.org", "ipv4": "198.18.0.10/24", "ipv4_gateway": "198.18.0.1"},
        "client": {"hostname": "home.example.org"},
        "mail": MAIL,
        "admin": {"email": "alice@example.org", "ssh_keys": [SSH_KEY]},
    }
    topology = Topology.model_validate(usual | tables)
    keys = {
        "wireguard": {"proxy": PROXY_KEY, "client": CLIENT_KEY},
        "ssh": {"proxy": SSH_KEY, "client": SSH_KEY},
        "dkim": {},
    }
    return Site(topology, PublicKeys.model_validate(keys), role)


def names(**tables: dict[str, Any]) -> set[str]:
    """Return the names of the client's services in a topology with *tables*."""
    return {service.name for service in services_of(site(Role.CLIENT, **tables))}


def test_a_scanner_is_set_up_only_where_it_is_wanted() -> None:
    assert "clamav" not in names()
    assert "clamav" in names(filter={"virus_scanner": True})


def test_a_message_of_the_largest_size_is_looked_through_as_a_whole() -> None:
    wanted = site(filter={"virus_scanner": True, "virus_signatures": "https://mirror.example.net/clamav"})

    values = clamav_values(wanted)

    assert (
        values.max_message_bytes == postfix_values(wanted).max_message_bytes == rspamd_values(wanted).max_message_bytes
    )
    assert values.max_scan_bytes > values.max_message_bytes
    assert values.mirror == "https://mirror.example.net/clamav"


def aliases(values: PostfixValues) -> dict[str, str]:
    return {row.address: row.targets for row in values.aliases}


def owners(values: PostfixValues) -> dict[str, str]:
    return {row.address: row.targets for row in values.owners}


# --- whose mail goes where


def test_a_mailbox_leads_to_itself_so_that_the_catch_all_takes_nothing_from_it() -> None:
    rows = aliases(postfix_values(site()))

    assert rows["@example.org"] == "bob@example.org"
    for address in ("alice@example.org", "bob@example.org", "robot@example.org"):
        assert rows[address] == address


def test_an_alias_of_a_mailbox_leads_to_it_in_whichever_domain() -> None:
    rows = aliases(postfix_values(site()))

    assert rows["a.liddell@example.org"] == rows["info@club.example.net"] == "alice@example.org"


def test_an_alias_leads_to_all_its_targets_in_the_order_given() -> None:
    assert aliases(postfix_values(site()))["team@example.org"] == "bob@example.org,a.liddell@example.org"


def test_a_domain_without_a_catch_all_has_none() -> None:
    assert "@club.example.net" not in aliases(postfix_values(site()))


def test_postmaster_and_abuse_of_every_domain_reach_the_administrator() -> None:
    rows = aliases(postfix_values(site()))

    for name in ("postmaster", "abuse"):
        for domain in ("example.org", "club.example.net"):
            assert rows[f"{name}@{domain}"] == "alice@example.org"


def test_with_an_administrator_elsewhere_they_reach_the_first_mailbox_that_takes_mail() -> None:
    boxes = [MAIL["mailboxes"][2], MAIL["mailboxes"][1]]
    mail = {"domains": MAIL["domains"], "mailboxes": boxes}

    rows = aliases(postfix_values(site(mail=mail, admin={"email": "admin@elsewhere.example"})))

    assert rows["postmaster@club.example.net"] == "bob@example.org"


def test_a_postmaster_whom_the_topology_names_stays() -> None:
    mail = MAIL | {"aliases": [{"address": "postmaster@example.org", "targets": ["bob@example.org"]}]}

    rows = aliases(postfix_values(site(mail=mail)))

    assert rows["postmaster@example.org"] == "bob@example.org"
    assert rows["abuse@example.org"] == "alice@example.org"


def test_an_alias_that_names_the_same_target_twice_delivers_once() -> None:
    twice = {"address": "x@example.org", "targets": ["bob@example.org", "bob@example.org"]}

    assert aliases(postfix_values(site(mail=MAIL | {"aliases": [twice]})))["x@example.org"] == "bob@example.org"


def test_accounts_that_only_send_are_mailboxes_and_named() -> None:
    values = postfix_values(site())

    assert values.send_only == ("robot@example.org",)
    assert "robot@example.org" in values.mailboxes


def test_the_largest_limit_of_any_domain_counts() -> None:
    assert postfix_values(site()).max_message_bytes == 40 * 1024 * 1024 + 64 * 1024


def test_postfix_has_the_name_of_the_proxy_and_not_its_own() -> None:
    values = postfix_values(site())

    assert values.hostname == dovecot_values(site()).hostname == "mail.example.org"
    assert "home.example.org" not in str(values)


# --- who may send as whom


def test_a_mailbox_is_its_own_sender_alone() -> None:
    rows = owners(postfix_values(site()))

    for address in ("alice@example.org", "bob@example.org", "robot@example.org"):
        assert rows[address] == address


def test_an_alias_may_be_used_by_every_mailbox_behind_it_through_other_aliases_too() -> None:
    rows = owners(postfix_values(site()))

    assert rows["a.liddell@example.org"] == "alice@example.org"
    assert rows["team@example.org"] == "alice@example.org,bob@example.org"
    assert rows["all@example.org"] == "alice@example.org,bob@example.org,robot@example.org"


def test_an_alias_to_somebody_elsewhere_is_nobodys_even_under_a_catch_all() -> None:
    rows = owners(postfix_values(site()))

    assert rows["@example.org"] == "bob@example.org"
    assert rows["away@example.org"] == NOBODY


def test_aliases_in_a_circle_end() -> None:
    circle = {
        "a@x.example": ("b@x.example",),
        "b@x.example": ("a@x.example", "c@x.example"),
        "c@x.example": ("c@x.example",),
    }

    assert list(mailboxes_behind("a@x.example", circle)) == ["c@x.example"]


NAMES = st.sampled_from([f"{letter}@example.org" for letter in string.ascii_lowercase[:8]])


@given(
    boxes=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    groups=st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=3), max_size=4),
)
def test_a_catch_all_changes_no_other_line(boxes: list[str], groups: dict[str, list[str]]) -> None:
    mail = {
        "mailboxes": [{"address": box} for box in boxes],
        "aliases": [{"address": name, "targets": to} for name, to in groups.items() if name not in boxes],
    }
    admin = {"email": "admin@elsewhere.example"}
    without = postfix_values(site(admin=admin, mail=mail | {"domains": [{"name": "example.org"}]}))
    domain = {"name": "example.org", "catch_all": boxes[0]}
    with_one = postfix_values(site(admin=admin, mail=mail | {"domains": [domain]}))

    assert aliases(with_one) == aliases(without) | {"@example.org": boxes[0]}
    assert owners(with_one) == owners(without) | {"@example.org": boxes[0]}


# --- mailboxes


def test_each_mailbox_has_its_own_quota() -> None:
    assert dovecot_values(site()).mailboxes == (
        MailboxRow("alice@example.org", 5120),
        MailboxRow("bob@example.org", 7),
        MailboxRow("robot@example.org", 5120),
    )


def test_only_who_has_a_script_gets_one() -> None:
    scripts = dovecot_values(site()).scripts

    assert [(script.address, script.escaped) for script in scripts] == [("bob@example.org", r"keep;\n")]


def test_a_script_is_one_line_that_systemd_reads_back() -> None:
    assert tmpfiles_argument('a "b\\c"\n\t50%\r\n') == r'a "b\\c"\n\t50%%\r\n'
    assert tmpfiles_argument("  keep;") == r"\x20 keep;"


# --- keys


def test_each_domain_is_signed_by_its_own_key() -> None:
    folder = "/run/credentials/rspamd.service"

    assert rspamd_values(site()).keys == (
        DkimKey("club.example.net", "s1", f"{folder}/dkim.club.example.net.s1.key"),
        DkimKey("example.org", "dkim", f"{folder}/dkim.example.org.dkim.key"),
    )


# --- the hosts and their networks


def test_each_host_has_its_own_name() -> None:
    assert system_values(site(Role.PROXY)).hostname == "mail.example.org"
    assert system_values(site()).short_name == "home"


def test_the_client_dials_and_the_proxy_listens() -> None:
    dialling, listening = tunnel_values(site()), tunnel_values(site(Role.PROXY))

    assert dialling.endpoint == "198.18.0.10:51820"
    assert dialling.listen_port == 0
    assert dialling.peer_public_key == PROXY_KEY
    assert dialling.addresses == ("10.0.0.2/24", "fd3b:9c0e:52a7::2/64")
    assert dialling.peer_addresses == ("10.0.0.1/32", "fd3b:9c0e:52a7::1/128")
    assert listening.endpoint == ""
    assert listening.listen_port == 51820
    assert listening.peer_public_key == CLIENT_KEY
    assert listening.addresses == ("10.0.0.1/24", "fd3b:9c0e:52a7::1/64")
    assert listening.peer_addresses == ("10.0.0.2/32", "fd3b:9c0e:52a7::2/128")


def test_the_client_knows_each_way_to_the_proxy_that_there_is() -> None:
    both = {"hostname": "mail.example.org", "ipv4": "198.18.0.10/24", "ipv6": "2001:2:0:1::10/64", "dhcp": True}

    assert tunnel_way_values(site()).ways == ("198.18.0.10:51820",)
    assert tunnel_way_values(site(proxy=both)).ways == ("198.18.0.10:51820", "[2001:2:0:1::10]:51820")


def test_ssh_to_the_client_is_in_the_tunnel_and_the_proxy_forwards_there_only() -> None:
    proxy, client = sshd_values(site(Role.PROXY)), sshd_values(site())

    assert client.listen_addresses == ("10.0.0.2", "fd3b:9c0e:52a7::2")
    assert client.jump_target == ""
    assert proxy.jump_target == "10.0.0.2:22"
    assert proxy.authorized_keys == client.authorized_keys == (SSH_KEY,)


def test_a_segment_fits_into_the_tunnel() -> None:
    values = firewall_client_values(site(tunnel={"mtu": 1300}))

    assert (values.mss_4, values.mss_6) == (1260, 1240)


def test_the_home_network_is_asked_for_an_address_unless_there_is_one() -> None:
    static = {"hostname": "home.example.org", "ipv4": "192.168.1.5/24", "ipv4_gateway": "192.168.1.1"}

    assert network_client_values(site()).address == ""
    assert network_client_values(site(client=static)).address == "192.168.1.5/24"
    assert network_client_values(site(client=static)).gateway == "192.168.1.1"
