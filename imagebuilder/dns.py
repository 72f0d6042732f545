"""The DNS records that make the mail of a topology work, each with its reason. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from imagebuilder.errors import ImagebuilderError
from imagebuilder.topology.model import MailDomain, Topology
from imagebuilder.topology.public import PublicKeys

TTL_S = 3600
MAX_STRING = 255
"""Bytes in one string of a TXT record (RFC 1035 section 3.3)."""
SUBMISSION_PORT = 587
IMAPS_PORT = 993


@dataclass(frozen=True)
class Record:
    """One resource record."""

    owner: str
    """Its name, fully qualified with the dot at the end."""
    type: str
    """As in a zone file: ``MX``."""
    rdata: str
    """As in a zone file; the strings of a TXT record are quoted and at most 255 bytes each."""
    why: str
    """What it is for, one sentence."""
    ttl: int = TTL_S
    """In seconds."""
    required: bool = True
    """Whether mail fails, or is distrusted, without it."""

    @property
    def text(self) -> str:
        """What a TXT record says, its strings joined and unquoted; of another type, the rdata."""
        if self.type != "TXT":
            return self.rdata
        strings = re.findall(r'"((?:[^"\\]|\\.)*)"', self.rdata)
        return "".join(re.sub(r"\\(.)", r"\1", string) for string in strings)

    def __str__(self) -> str:
        return f"{self.owner}\t{self.ttl}\tIN\t{self.type}\t{self.rdata}"


def zone_records(topology: Topology, public: PublicKeys) -> tuple[Record, ...]:
    """Return the records to publish: those of the proxy's name, then those of each mail domain.

    Raise ImagebuilderError when *public* lacks the DKIM key of a domain.
    """
    records = list(_host_records(topology))
    for domain in topology.mail.domains:
        records += _domain_records(domain, f"{topology.proxy.hostname}.", _dkim_key(public, domain))
    return tuple(records)


def reverse_records(topology: Topology) -> tuple[Record, ...]:
    """Return the PTR records of the proxy's addresses; the provider of the addresses publishes them."""
    addresses = [topology.proxy.ipv4.ip, *([topology.proxy.ipv6.ip] if topology.proxy.ipv6 else [])]
    why = "receivers distrust a sender whose address doesn't name it (set it at the provider of the address)"
    return tuple(
        Record(f"{address.reverse_pointer}.", "PTR", f"{topology.proxy.hostname}.", why) for address in addresses
    )


def zone_text(records: Iterable[Record], origin: str) -> str:
    """Return those of *records* at or below *origin* as a piece of a zone file, without SOA and NS."""
    zone = f"{origin.rstrip('.')}."
    inside = [record for record in records if record.owner == zone or record.owner.endswith(f".{zone}")]
    lines = [f"$ORIGIN {zone}"]
    for record in inside:
        lines += [f"; {record.why}", str(record)]
    return "\n".join(lines) + "\n"


def txt(text: str) -> str:
    """Return *text* as the rdata of a TXT record: quoted, in strings of at most 255 bytes."""
    strings = [text[start : start + MAX_STRING] for start in range(0, len(text), MAX_STRING)] or [""]
    return " ".join('"' + re.sub(r'(["\\])', r"\\\1", string) + '"' for string in strings)


def _host_records(topology: Topology) -> Iterable[Record]:
    """Yield the records of the proxy's own name."""
    proxy = topology.proxy
    owner = f"{proxy.hostname}."
    yield Record(owner, "A", str(proxy.ipv4.ip), "the host that takes and sends all mail")
    if proxy.ipv6:
        yield Record(owner, "AAAA", str(proxy.ipv6.ip), "the same host by IPv6")
    if proxy.hostname not in {domain.name for domain in topology.mail.domains}:
        why = "lets receivers check bounces, which have no sender but the host's name (RFC 7208 section 2.4)"
        yield Record(owner, "TXT", txt("v=spf1 a -all"), why, required=False)


def _domain_records(domain: MailDomain, host: str, dkim_key: str) -> Iterable[Record]:
    """Yield the records of one mail *domain* whose mail *host* takes."""
    owner = f"{domain.name}."
    yield Record(owner, "MX", f"10 {host}", f"mail for {domain.name} goes to the proxy")
    yield Record(owner, "TXT", txt("v=spf1 mx -all"), "only the proxy sends mail of this domain (SPF)")
    yield Record(
        f"{domain.dkim_selector}._domainkey.{owner}", "TXT", txt(f"v=DKIM1; k=rsa; p={dkim_key}"),
        "the key that our signatures are checked with (DKIM)",
    )  # fmt: skip
    yield Record(
        f"_dmarc.{owner}", "TXT", txt(f"v=DMARC1; p=reject; rua=mailto:postmaster@{domain.name}"),
        "mail that fails both SPF and DKIM is forged; reports about it go to postmaster (DMARC)",
    )  # fmt: skip
    for service, port in (("_submission", SUBMISSION_PORT), ("_imaps", IMAPS_PORT)):
        why = "mail programs find the server by it (RFC 6186)"
        yield Record(f"{service}._tcp.{owner}", "SRV", f"0 1 {port} {host}", why, required=False)
    for label, programs in (("autoconfig", "Thunderbird"), ("autodiscover", "Outlook")):
        yield Record(f"{label}.{owner}", "CNAME", host, f"{programs} sets itself up by it", required=False)


def _dkim_key(public: PublicKeys, domain: MailDomain) -> str:
    """Return the public DKIM key of *domain*, base64."""
    try:
        return public.dkim[domain.name][domain.dkim_selector]
    except KeyError:
        raise ImagebuilderError(
            f"there is no DKIM key for {domain.name} with the selector {domain.dkim_selector!r}",
            hint="imagebuilder init adds missing keys",
        ) from None
