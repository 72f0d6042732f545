"""The DNS records of a topology, read by a parser that isn't ours."""

import tomllib
from pathlib import Path
from typing import Any

import dns.zone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.dns.records import Record, authority, reverse_records, txt, zone_of, zone_records, zone_text, zones
from imagebuilder.errors import ImagebuilderError
from imagebuilder.secrets.keys import completed, new_secrets, public_keys
from imagebuilder.topology import PublicKeys, Topology
from imagebuilder.topology.load import judged

SMALL = Path(__file__).parent.parent / "topologies/small.toml"
SOA = "@ 3600 IN SOA ns. root. 1 1 1 1 1\n@ 3600 IN NS ns.\n"


def with_changes(**changes: dict[str, Any]) -> Topology:
    document: dict[str, Any] = tomllib.loads(SMALL.read_text())
    for table, keys in changes.items():
        document[table] = {key: value for key, value in (document.get(table, {}) | keys).items() if value is not None}
    topology, problems = judged(document)
    assert topology is not None
    assert problems == ()
    return topology


@pytest.fixture(scope="module")
def two() -> Topology:
    """Two mail domains, the host in a third that takes no mail."""
    return with_changes(
        mail={"domains": [{"name": "example.org"}, {"name": "example.net", "dkim_selector": "s2"}]},
        proxy={"hostname": "mx.host.test"},
        admin={"domains": ["host.test"]},
        client={"hostname": "box.home.arpa"},
    )


@pytest.fixture(scope="module")
def public(two: Topology) -> PublicKeys:
    return public_keys(new_secrets(two))


def parsed(text: str, origin: str) -> dns.zone.Zone:
    """Return *text* as a zone, with the apex records that the provider adds."""
    header, _, rest = text.partition("\n")
    return dns.zone.from_text(f"{header}\n{SOA}{rest}", origin=origin, relativize=False)


def answers(zone: dns.zone.Zone, name: str, kind: str) -> list[str]:
    found = zone.get_rdataset(name, kind)
    return [rdata.to_text() for rdata in found] if found else []


def test_a_mail_domain_has_all_records_that_mail_needs(two: Topology, public: PublicKeys) -> None:
    zone = parsed(zone_text(zone_records(two, public), "example.net"), "example.net.")

    assert answers(zone, "example.net.", "MX") == ["10 mx.host.test."]
    assert answers(zone, "example.net.", "TXT") == ['"v=spf1 mx -all"']
    assert answers(zone, "_dmarc.example.net.", "TXT") == ['"v=DMARC1; p=reject; rua=mailto:postmaster@example.net"']
    assert answers(zone, "_submission._tcp.example.net.", "SRV") == ["0 1 587 mx.host.test."]
    assert answers(zone, "_imaps._tcp.example.net.", "SRV") == ["0 1 993 mx.host.test."]
    assert answers(zone, "autoconfig.example.net.", "CNAME") == ["mx.host.test."]
    assert answers(zone, "autodiscover.example.net.", "CNAME") == ["mx.host.test."]
    assert answers(zone, "mta-sts.example.net.", "CNAME") == ["mx.host.test."]
    assert answers(zone, "_smtp._tls.example.net.", "TXT") == ['"v=TLSRPTv1; rua=mailto:postmaster@example.net"']
    assert answers(zone, "_mta-sts.example.net.", "TXT")[0].startswith('"v=STSv1; id=')
    assert answers(zone, "dkim._domainkey.example.net.", "TXT") == []


def test_the_host_names_its_authority_and_its_key(two: Topology, public: PublicKeys) -> None:
    zone = parsed(zone_text(zone_records(two, public), "host.test"), "host.test.")

    assert answers(zone, "mx.host.test.", "CAA") == ['0 issue "letsencrypt.org"']
    assert answers(zone, "_25._tcp.mx.host.test.", "TLSA") == [f"3 1 1 {public.tls}"]


def test_an_authority_that_is_not_known_is_asked_for_and_never_guessed() -> None:
    unknown = with_changes(acme={"directory": "https://acme.example.org/directory"})
    named = with_changes(acme={"directory": "https://acme.example.org/directory", "caa": "ca.example.org"})

    assert authority(unknown) is None
    assert authority(named) == "ca.example.org"


def test_a_rotation_publishes_the_next_key_before_it_signs_and_the_former_after() -> None:
    domains = [{"name": "example.org", "dkim_selector": "k2", "dkim_next_selector": "k3"}]
    topology = with_changes(mail={"domains": domains})
    before = new_secrets(with_changes(mail={"domains": [{"name": "example.org", "dkim_selector": "k1"}]}))
    records = zone_records(topology, public_keys(completed(before, topology)[0]))

    keys = {record.owner: record for record in records if "._domainkey." in record.owner}
    assert [name.partition(".")[0] for name in keys] == ["k2", "k1", "k3"]
    assert [record.required for record in keys.values()] == [True, False, False]
    assert len({record.text for record in keys.values()}) == 3


def test_the_policy_id_follows_the_policy(two: Topology, public: PublicKeys) -> None:
    other = with_changes(proxy={"hostname": "other.example.org"})

    def ids(topology: Topology, keys: PublicKeys) -> set[str]:
        return {record.text for record in zone_records(topology, keys) if record.owner.startswith("_mta-sts.")}

    assert ids(two, public) == ids(two, public)
    assert ids(two, public) != ids(other, public_keys(new_secrets(other)))


def test_every_record_lies_in_a_zone_of_the_operator(two: Topology, public: PublicKeys) -> None:
    assert zones(two) == ("example.org", "example.net", "host.test")
    assert {zone_of(record.owner, zones(two)) for record in zone_records(two, public)} == set(zones(two))


def test_the_dkim_record_holds_the_whole_key_in_short_strings(two: Topology, public: PublicKeys) -> None:
    zone = parsed(zone_text(zone_records(two, public), "example.net"), "example.net.")
    (rdata,) = list(zone.find_rdataset("s2._domainkey.example.net.", "TXT"))

    assert max(map(len, rdata.strings)) <= 255
    assert b"".join(rdata.strings).decode() == f"v=DKIM1; k=rsa; p={public.dkim['example.net']['s2']}"


def test_the_host_has_its_addresses_once_in_the_zone_that_it_lies_in(two: Topology, public: PublicKeys) -> None:
    records = zone_records(two, public)
    zone = parsed(zone_text(records, "host.test."), "host.test.")

    assert answers(zone, "mx.host.test.", "A") == ["198.18.0.10"]
    assert answers(zone, "mx.host.test.", "AAAA") == ["2001:2:0:1::10"]
    assert answers(zone, "mx.host.test.", "TXT") == ['"v=spf1 a -all"']
    assert len({(record.owner, record.type) for record in records}) == len(records)
    assert not any(line.startswith("mx.host.test.") for line in zone_text(records, "example.org").splitlines())


def test_the_client_is_never_published(two: Topology, public: PublicKeys) -> None:
    assert "home.arpa" not in "".join(map(str, (*zone_records(two, public), *reverse_records(two))))


def test_without_ipv6_there_is_neither_aaaa_nor_its_ptr() -> None:
    topology = with_changes(proxy={"ipv6": None, "ipv6_gateway": None})
    records = zone_records(topology, public_keys(new_secrets(topology)))

    assert "AAAA" not in {record.type for record in records}
    assert [str(record.owner) for record in reverse_records(topology)] == ["10.0.18.198.in-addr.arpa."]


def test_a_host_named_like_its_mail_domain_has_one_spf_record() -> None:
    topology = with_changes(proxy={"hostname": "example.org"})
    records = zone_records(topology, public_keys(new_secrets(topology)))

    spf = [record.text for record in records if record.type == "TXT" and record.owner == "example.org."]
    assert spf == ["v=spf1 mx -all"]


def test_both_addresses_lead_back_to_the_host(two: Topology) -> None:
    assert {(record.owner, record.rdata) for record in reverse_records(two)} == {
        ("10.0.18.198.in-addr.arpa.", "mx.host.test."),
        ("0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.2.0.0.0.1.0.0.2.ip6.arpa.", "mx.host.test."),
    }


def test_each_record_says_why_and_mail_does_not_hang_on_comfort(two: Topology, public: PublicKeys) -> None:
    records = zone_records(two, public)

    assert all(record.why for record in records)
    assert {record.type for record in records if not record.required} == {"SRV", "CNAME", "TXT", "CAA", "TLSA"}
    assert {"A", "AAAA", "MX", "TXT"} == {record.type for record in records if record.required}


def test_a_missing_dkim_key_is_named(two: Topology, public: PublicKeys) -> None:
    without = public.model_copy(update={"dkim": {"example.org": public.dkim["example.org"]}})

    with pytest.raises(ImagebuilderError, match=r"no DKIM key for example\.net with the selector 's2'"):
        zone_records(two, without)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=1200))
@settings(deadline=None)
def test_any_text_survives_the_zone_file(text: str) -> None:
    record = Record("t.example.org.", "TXT", txt(text), "a test")
    zone = parsed(zone_text([record], "example.org"), "example.org.")
    (rdata,) = list(zone.find_rdataset("t.example.org.", "TXT"))

    assert record.text == text
    assert b"".join(rdata.strings).decode() == text
