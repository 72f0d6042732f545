"""The DNS records that make the mail of a topology work, each with its reason. Pure."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imagebuilder.errors import ImagebuilderError
from imagebuilder.topology.model import MailDomain, Topology
from imagebuilder.topology.public import PublicKeys
from imagebuilder.topology.rules_mail import SERVICE_LABELS

TTL_S = 3600
MAX_STRING = 255
"""Bytes in one string of a TXT record (RFC 1035 section 3.3)."""
SUBMISSION_PORT = 587
IMAPS_PORT = 993
HTTPS_PORT = 443
WEB_REASONS = {
    "autoconfig": "Thunderbird sets itself up by it",
    "autodiscover": "Outlook sets itself up by it",
    "mta-sts": "other servers fetch there that mail to us must be encrypted (RFC 8461)",
}
MTA_STS_MAX_AGE_S = 14 * 24 * 3600
"""How long other servers may keep the policy; RFC 8461 section 3.2 wants weeks."""
AUTHORITIES = {
    "acme-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme.zerossl.com": "sectigo.com",
    "dv.acme-v02.api.pki.goog": "pki.goog",
    "acme.ssl.com": "ssl.com",
}
"""What CAA records call the authority of an ACME directory, by the directory's host; from their own documentation."""

ROOT_SERVERS = {
    "a": ("198.41.0.4", "2001:503:ba3e::2:30"),
    "b": ("170.247.170.2", "2801:1b8:10::b"),
    "c": ("192.33.4.12", "2001:500:2::c"),
    "d": ("199.7.91.13", "2001:500:2d::d"),
    "e": ("192.203.230.10", "2001:500:a8::e"),
    "f": ("192.5.5.241", "2001:500:2f::f"),
    "g": ("192.112.36.4", "2001:500:12::d0d"),
    "h": ("198.97.190.53", "2001:500:1::53"),
    "i": ("192.36.148.17", "2001:7fe::53"),
    "j": ("192.58.128.30", "2001:503:c27::2:30"),
    "k": ("193.0.14.129", "2001:7fd::1"),
    "l": ("199.7.83.42", "2001:500:9f::42"),
    "m": ("202.12.27.33", "2001:dc3::35"),
}
"""The addresses that resolvers have built in, by letter (root.hints of the root zone)."""


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
    records = list(_host_records(topology, public))
    for domain in topology.mail.domains:
        _require_dkim_key(public, domain)
        records += _domain_records(domain, topology)
        records += _dkim_records(domain, public.dkim[domain.name])
    return tuple(records)


def reverse_records(topology: Topology) -> tuple[Record, ...]:
    """Return the PTR records of the proxy's addresses; the provider of the addresses publishes them."""
    addresses = [topology.proxy.ipv4.ip, *([topology.proxy.ipv6.ip] if topology.proxy.ipv6 else [])]
    why = "receivers distrust a sender whose address doesn't name it (set it at the provider of the address)"
    return tuple(
        Record(f"{address.reverse_pointer}.", "PTR", f"{topology.proxy.hostname}.", why) for address in addresses
    )


def zones(topology: Topology) -> tuple[str, ...]:
    """Return the names of the zones that hold the records: mail domains first, then others that a record lies in."""
    mail = [domain.name for domain in topology.mail.domains]
    host = topology.proxy.hostname
    around = [name for name in topology.admin.domains if host == name or host.endswith(f".{name}")]
    return tuple(dict.fromkeys([*mail, *around]))


def zone_of(owner: str, origins: Iterable[str]) -> str | None:
    """Return which of *origins*, zone names without their last dot, holds *owner*: the longest; None if none does."""
    name = owner.rstrip(".")
    holding = [origin for origin in origins if name == origin or name.endswith(f".{origin}")]
    return max(holding, key=len, default=None)


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


def mta_sts_policy(topology: Topology) -> str:
    """Return the policy that is served for every mail domain: only our host, only with a valid certificate."""
    rows = ("version: STSv1", "mode: enforce", f"mx: {topology.proxy.hostname}", f"max_age: {MTA_STS_MAX_AGE_S}")
    # RFC 8461 section 3.2: lines end with LF or CRLF
    return "".join(f"{row}\n" for row in rows)


def authority(topology: Topology) -> str | None:
    """Return the name of the certificate authority as CAA records have it; None when it isn't known."""
    host = topology.acme.directory.removeprefix("https://").partition("/")[0].partition(":")[0]
    return topology.acme.caa or AUTHORITIES.get(host)


def _host_records(topology: Topology, public: PublicKeys) -> Iterable[Record]:
    """Yield the records of the proxy's own name."""
    proxy = topology.proxy
    owner = f"{proxy.hostname}."
    yield Record(owner, "A", str(proxy.ipv4.ip), "the host that takes and sends all mail")
    if proxy.ipv6:
        yield Record(owner, "AAAA", str(proxy.ipv6.ip), "the same host by IPv6")
    if proxy.hostname not in {domain.name for domain in topology.mail.domains}:
        why = "lets receivers check bounces, which have no sender but the host's name (RFC 7208 section 2.4)"
        yield Record(owner, "TXT", txt("v=spf1 a -all"), why, required=False)
    if issuer := authority(topology):
        why = "no other authority may issue certificates for the mail system's names (RFC 8659)"
        yield Record(owner, "CAA", f'0 issue "{issuer}"', why, required=False)
    if public.tls is not None:
        why = "servers that check DANE take mail to no impostor (RFC 7672); it counts only when the zone is signed"
        yield Record(f"_25._tcp.{owner}", "TLSA", f"3 1 1 {public.tls}", why, required=False)


def _domain_records(domain: MailDomain, topology: Topology) -> Iterable[Record]:
    """Yield the records of one mail *domain*, but for its keys."""
    owner, host = f"{domain.name}.", f"{topology.proxy.hostname}."
    yield Record(owner, "MX", f"10 {host}", f"mail for {domain.name} goes to the proxy")
    yield Record(owner, "TXT", txt("v=spf1 mx -all"), "only the proxy sends mail of this domain (SPF)")
    yield Record(
        f"_dmarc.{owner}", "TXT", txt(f"v=DMARC1; p=reject; rua=mailto:postmaster@{domain.name}"),
        "mail that fails both SPF and DKIM is forged; reports about it go to postmaster (DMARC)",
    )  # fmt: skip
    for service, port in (("_submission", SUBMISSION_PORT), ("_imaps", IMAPS_PORT)):
        why = "mail programs find the server by it (RFC 6186)"
        yield Record(f"{service}._tcp.{owner}", "SRV", f"0 1 {port} {host}", why, required=False)
    why = "Outlook finds its settings by it where the name autodiscover is taken"
    yield Record(f"_autodiscover._tcp.{owner}", "SRV", f"0 1 {HTTPS_PORT} {host}", why, required=False)
    for label in SERVICE_LABELS:
        yield Record(f"{label}.{owner}", "CNAME", host, WEB_REASONS[label], required=False)
    # other servers fetch the policy again when this changes, so it names the policy's content
    policy = hashlib.sha256(mta_sts_policy(topology).encode()).hexdigest()[:32]
    yield Record(
        f"_mta-sts.{owner}", "TXT", txt(f"v=STSv1; id={policy}"),
        "says that there is an MTA-STS policy, and which (RFC 8461)", required=False,
    )  # fmt: skip
    yield Record(
        f"_smtp._tls.{owner}", "TXT", txt(f"v=TLSRPTv1; rua=mailto:postmaster@{domain.name}"),
        "servers that can't encrypt mail to us report it to postmaster (RFC 8460)", required=False,
    )  # fmt: skip


def _dkim_records(domain: MailDomain, keys: Mapping[str, str]) -> Iterable[Record]:
    """Yield the records of the *keys* of *domain* by selector: the one that signs, and those of a rotation."""
    reasons = {domain.dkim_selector: "the key that our signatures are checked with (DKIM)"}
    if domain.dkim_next_selector is not None:
        reasons[domain.dkim_next_selector] = "the key that signs next; published before it is used (DKIM rotation)"
    former = "a former key: mail that it signed may still be on its way; remove it after a week (DKIM rotation)"
    for selector in sorted(keys, key=lambda name: (name != domain.dkim_selector, name)):
        yield Record(
            f"{selector}._domainkey.{domain.name}.", "TXT", txt(f"v=DKIM1; k=rsa; p={keys[selector]}"),
            reasons.get(selector, former), required=selector == domain.dkim_selector,
        )  # fmt: skip


def _require_dkim_key(public: PublicKeys, domain: MailDomain) -> None:
    """Raise ImagebuilderError when *public* lacks a key of *domain*."""
    for selector in domain.selectors:
        if selector not in public.dkim.get(domain.name, {}):
            raise ImagebuilderError(
                f"there is no DKIM key for {domain.name} with the selector {selector!r}",
                hint="imagebuilder init adds missing keys",
            )
