"""The mail domains of others: what they publish, and whose mail the stranger's server takes. Pure."""

from imagebuilder.dns.records import Record, txt
from imagebuilder.topology import Topology

STRANGER_DOMAIN = "stranger.example"
"""Its server says by DANE which certificate it has, and it wants reports about TLS."""
STS_DOMAIN = "sts.example"
"""Another of the stranger's, on the same host, that has an MTA-STS policy: in DNS at least, a scenario serves it."""
STRICT_DOMAIN = "strict.example"
"""Lets nobody send, and asks that forged mail be refused."""
WARY_DOMAIN = "wary.example"
"""Lets nobody send, and asks that forged mail be set aside."""
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
