"""The names of the world: the topology's zone, the mail domains of others, and the outside hosts. Pure."""

from imagebuilder.dns.records import Record, reverse_records, txt, zone_records
from imagebuilder.topology import PublicKeys, Topology
from imagebuilder.vm.addresses import Addresses
from imagebuilder.vm.authority import directory_hosts, tlsa

STRANGER_DOMAIN = "stranger.example"
"""Its server says by DANE which certificate it has, and it wants reports about TLS."""
STS_DOMAIN = "sts.example"
"""Another of the stranger's, on the same host, that has an MTA-STS policy: in DNS at least, a scenario serves it."""
STRICT_DOMAIN = "strict.example"
"""Lets nobody send, and asks that forged mail be refused."""
WARY_DOMAIN = "wary.example"
"""Lets nobody send, and asks that forged mail be set aside."""
STRANGER_NAMES = tuple(f"mx.{domain}" for domain in (STRANGER_DOMAIN, STS_DOMAIN))
USER_NAME = "roaming.user.example"
HOME_NAME = "line-2.provider.example"
GONE = f"gone@{STRANGER_DOMAIN}"
"""An address that the stranger's server refuses."""


def foreign_domains(topology: Topology) -> tuple[str, ...]:
    """Return the domains elsewhere that *topology* sends its own mail on to, sorted."""
    hosted = {domain.name for domain in topology.mail.domains}
    targets = (target for alias in topology.mail.aliases for target in alias.targets)
    addresses = (*targets, topology.admin.email)
    return tuple(sorted({address.rpartition("@")[2] for address in addresses} - hosted - {STRANGER_DOMAIN}))


def foreign_records(topology: Topology, mx: str) -> tuple[Record, ...]:
    """Return what the mail domains elsewhere publish; the host *mx* takes the mail of all."""
    policies = {
        STRANGER_DOMAIN: ("mx -all", "none"),
        STRICT_DOMAIN: ("-all", "reject"),
        WARY_DOMAIN: ("-all", "quarantine"),
    }
    records = []
    for domain in (*policies, *foreign_domains(topology)):
        records.append(Record(f"{domain}.", "MX", f"10 {mx}", "mail elsewhere"))
        if domain in policies:
            senders, wish = policies[domain]
            records.append(Record(f"{domain}.", "TXT", txt(f"v=spf1 {senders}"), "a stranger's own policy"))
            records.append(Record(f"_dmarc.{domain}.", "TXT", txt(f"v=DMARC1; p={wish}"), "a stranger's own policy"))
    reports = txt(f"v=TLSRPTv1; rua=mailto:tls@{STRANGER_DOMAIN}")
    return (
        *records,
        Record(f"_smtp._tls.{STRANGER_DOMAIN}.", "TXT", reports, "a stranger's own policy"),
        Record(f"{STS_DOMAIN}.", "MX", f"10 mx.{STS_DOMAIN}.", "mail elsewhere"),
        Record(f"_mta-sts.{STS_DOMAIN}.", "TXT", txt("v=STSv1; id=1"), "a stranger's own policy"),
    )


def world_records(topology: Topology, public: PublicKeys, places: Addresses) -> tuple[Record, ...]:
    """Return every name of the world: the topology's own, and those of the outside hosts. Pure."""
    own = (*zone_records(topology, public), *reverse_records(topology))
    mx = f"mx.{STRANGER_DOMAIN}."
    outside = [*foreign_records(topology, mx)]
    for name in (f"mx.{STS_DOMAIN}.", f"mta-sts.{STS_DOMAIN}."):
        outside.append(Record(name, "A", str(places.stranger.ipv4.ip), "an outside host"))
    for name, place in ((mx, places.stranger), (f"{USER_NAME}.", places.user), (f"{HOME_NAME}.", places.home)):
        outside.append(Record(name, "A", str(place.ipv4.ip), "an outside host"))
        outside.append(Record(f"{place.ipv4.ip.reverse_pointer}.", "PTR", name, "an outside host"))
        if place.ipv6 is not None:
            outside.append(Record(name, "AAAA", str(place.ipv6.ip), "an outside host"))
            outside.append(Record(f"{place.ipv6.ip.reverse_pointer}.", "PTR", name, "an outside host"))
    for host in directory_hosts(topology.acme.directory):
        outside.append(Record(f"{host}.", "A", str(places.dns_ipv4), "the certificate authority"))
    return (*own, *outside)


def stranger_tlsa(certificate: bytes) -> Record:
    """Return the record that names *certificate* as the one of the stranger's mail server. Pure."""
    return Record(f"_25._tcp.mx.{STRANGER_DOMAIN}.", "TLSA", tlsa(certificate), "the stranger's own policy")
