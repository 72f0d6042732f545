"""What a topology may say: every table and field, with its unit. Pure."""

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from imagebuilder.topology.keys import SshKey
from imagebuilder.topology.names import (
    Disk,
    HostName,
    HostV4,
    HostV6,
    HttpsUrl,
    MailAddress,
    Network,
    NetworkV4,
    NetworkV6,
    Pem,
    Provider,
    RouterV4,
    RouterV6,
    Selector,
    Switch,
    Text,
    Whole,
)

__all__ = [
    "Acme", "Admin", "Bans", "Client", "Filter", "HostName", "Mail", "MailAddress", "MailAlias", "MailDomain",
    "Mailbox", "Model", "Proxy", "Relay", "Role", "Suite", "Topology", "Tunnel",
]  # fmt: skip


class Model(BaseModel):
    """A table of the topology: read-only, unknown keys are errors, docstrings are the schema's texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Suite(StrEnum):
    """Which mail engines the client runs."""

    NATIVE = "native"
    MAILCOW = "mailcow"


class Role(StrEnum):
    """Which of the two images."""

    PROXY = "proxy"
    CLIENT = "client"


class Proxy(Model):
    """The only host that the Internet sees: a small VPS with a public address."""

    hostname: HostName
    """Its full name, in one of your domains; the MX of every mail domain, and what its PTR record must say."""
    ipv4: HostV4
    """Public IPv4 address with prefix length, as in "198.51.100.10/24"."""
    ipv4_gateway: RouterV4 | None = None
    """Router for IPv4; required unless dhcp is true. Inside the prefix, unless that is a single address (/32)."""
    ipv6: HostV6 | None = None
    """Public IPv6 address with prefix length; left out: the proxy speaks IPv4 only."""
    ipv6_gateway: RouterV6 | None = None
    """Router for IPv6, often "fe80::1"; required with ipv6 unless dhcp is true. It is link-local or inside the prefix,
    but for that of a single address (/128)."""
    dhcp: Switch = False
    """True: the provider hands out the addresses by DHCP and router advertisements; ipv4 and ipv6 still say which."""
    boot_disk: Disk | None = None
    """Disk of the VPS that an upload overwrites, as in "/dev/vda"; left out: the only disk there is."""


class Client(Model):
    """The server at home that keeps the mail; the Internet sees it only through the tunnel."""

    hostname: HostName
    """Its full name, in one of your domains or in home.arpa or internal; never published."""
    suite: Suite = Suite.NATIVE
    """Which mail engines: "native" (Debian's Postfix, Dovecot, Rspamd)."""
    ipv4: HostV4 | None = None
    """Address at home with prefix length; left out: DHCP."""
    ipv4_gateway: RouterV4 | None = None
    """Router at home; required with ipv4."""


class Tunnel(Model):
    """The WireGuard tunnel that the client dials."""

    network: NetworkV4 = IPv4Network("10.0.0.0/24")
    """Private network inside the tunnel; the proxy takes its first address, the client the second."""
    network_ipv6: NetworkV6 = IPv6Network("fd3b:9c0e:52a7::/64")
    """The same for IPv6, a network that nobody routes (RFC 4193)."""
    port: Annotated[Whole, Field(ge=1, le=65535)] = 51820
    """UDP port on the proxy."""
    mtu: Annotated[Whole, Field(ge=1280, le=1440)] = 1420
    """Largest packet inside the tunnel, in bytes; where the client dials by IPv6, one above 1420 goes in two pieces."""
    keepalive_s: Annotated[Whole, Field(ge=1, le=120)] = 25
    """Seconds between the client's keepalives, so that any NAT keeps the way back open."""

    @property
    def proxy_address(self) -> IPv4Address:
        """The proxy's address inside the tunnel."""
        return self.network[1]

    @property
    def client_address(self) -> IPv4Address:
        """The client's address inside the tunnel."""
        return self.network[2]

    @property
    def proxy_ipv6(self) -> IPv6Address:
        """The proxy's IPv6 address inside the tunnel."""
        return self.network_ipv6[1]

    @property
    def client_ipv6(self) -> IPv6Address:
        """The client's IPv6 address inside the tunnel."""
        return self.network_ipv6[2]

    @property
    def networks(self) -> tuple[IPv4Network, IPv6Network]:
        """Both networks inside the tunnel."""
        return self.network, self.network_ipv6


class MailDomain(Model):
    """A domain we take mail for."""

    name: HostName
    """The part after the @."""
    dkim_selector: Selector = "dkim"
    """Label under _domainkey where the public DKIM key is published."""
    dkim_next_selector: Selector | None = None
    """Label of a second key that is published and doesn't sign yet; later you make it dkim_selector."""
    max_message_mib: Annotated[Whole, Field(ge=1, le=512)] = 36
    """Largest message accepted, in MiB, after encoding for transport: a file of 25 MiB fits in 36."""
    catch_all: MailAddress | None = None
    """Mailbox for every address of the domain that nothing else takes; left out: unknown addresses are refused."""

    @property
    def selectors(self) -> tuple[str, ...]:
        """The selectors of its keys, the one that signs first."""
        return (self.dkim_selector, *([self.dkim_next_selector] if self.dkim_next_selector else []))


class Mailbox(Model):
    """A person's mailbox, or a program's account."""

    address: MailAddress
    """Its address, and the login name."""
    quota_mib: Annotated[Whole, Field(ge=1, le=16_777_216)] = 5120
    """Room for mail, in MiB."""
    aliases: tuple[MailAddress, ...] = ()
    """Further addresses that it receives, and may send as."""
    send_only: Switch = False
    """True: it may send; mail to it is refused."""
    sieve: Text | None = None
    """Sieve script (RFC 5228) that files its incoming mail."""


class MailAlias(Model):
    """An address that stands for others."""

    address: MailAddress
    """The address."""
    targets: Annotated[tuple[MailAddress, ...], Field(min_length=1)]
    """Where its mail goes."""


class Relay(Model):
    """A provider's server that takes mail for some domains, or for all, instead of their own servers."""

    host: HostName
    """Its name, which its certificate has to have."""
    port: Annotated[Whole, Field(ge=1, le=65535)] = 587
    """Its TCP port, with STARTTLS."""
    domains: tuple[HostName, ...] = ()
    """Recipients' domains that it takes mail for; left out: all that no other relay names, but for yours."""
    username: Text | None = None
    """Whom to log in as; the password is the secret "tokens/relay.HOST". Left out: no login."""


class Mail(Model):
    """Domains, mailboxes and aliases."""

    domains: Annotated[tuple[MailDomain, ...], Field(min_length=1)]
    """At least one; the first is the principal domain."""
    mailboxes: Annotated[tuple[Mailbox, ...], Field(min_length=1)]
    """At least one."""
    aliases: tuple[MailAlias, ...] = ()
    """Addresses that stand for others."""
    relays: tuple[Relay, ...] = ()
    """Servers that mail to the outside goes through."""


class Filter(Model):
    """What is done with mail that looks like spam, and how much anybody may send."""

    reject_score: Annotated[Whole, Field(ge=5, le=1000)] = 15
    """Rspamd's score from which mail is refused in the dialogue, so that its sender hears of it."""
    junk_score: Annotated[Whole, Field(ge=1, le=1000)] = 6
    """Score from which mail is filed under Junk; below reject_score."""
    greylisting: Switch = False
    """True: doubtful mail of an unknown sender is put off once, for five minutes."""
    user_messages_per_hour: Annotated[Whole, Field(ge=1, le=100_000)] = 200
    """Most messages that a mailbox may send within an hour; more are put off."""
    source_messages_per_hour: Annotated[Whole, Field(ge=10, le=1_000_000)] = 2000
    """Most messages that one address outside may send us within an hour; more are put off."""
    virus_scanner: Switch = False
    """True: ClamAV looks through all mail, and what has a virus is refused in the dialogue. It takes 1.5 GB of memory,
    for a minute twice that when signatures change; until the first ones are there, mail is put off."""
    virus_signatures: HttpsUrl | None = None
    """URL of a mirror of ClamAV's signatures; left out: the project's own servers, which learn the address at home."""


class Bans(Model):
    """Who guesses passwords is kept from submission and IMAP, at the proxy's firewall, for a while."""

    wrong_passwords: Annotated[Whole, Field(ge=3, le=1000)] = 10
    """Different wrong passwords from one address (a /64 with IPv6) that make a ban; one tried again counts once."""
    within_minutes: Annotated[Whole, Field(ge=1, le=1440)] = 30
    """Time within which they count."""
    ban_minutes: Annotated[Whole, Field(ge=1, le=10_080)] = 60
    """How long a ban lasts; it ends by itself."""
    never: tuple[Network, ...] = ()
    """Networks that are never banned, as in "203.0.113.0/24" or "2001:db8:7::/48"."""


class Admin(Model):
    """Who runs the two hosts."""

    email: MailAddress
    """Where certificate authorities and other postmasters can write to; gets the mail of postmaster@ and abuse@."""
    ssh_keys: tuple[SshKey, ...] = ()
    """Public SSH keys that may log in as root, as in authorized_keys; none: nobody can."""
    domains: tuple[HostName, ...] = ()
    """Further domains of yours, without mail here, that host names may lie in."""


class Acme(Model):
    """The certificate authority."""

    directory: HttpsUrl = "https://acme-v02.api.letsencrypt.org/directory"
    """URL of the ACME directory."""
    caa: HostName | None = None
    """What CAA records call the authority, as in "letsencrypt.org"; left out: known for the large ones."""
    ca_root: Pem | None = None
    """PEM file, relative to the topology, of a private authority's root; left out: the public ones."""
    dns_provider: Provider | None = None
    """Provider of the mail host's zone as lego names it, for the client's certificate by a DNS record (DNS-01); its
    token stands in the secrets file. Left out: by HTTP through the proxy, which needs no token."""
    _root_certificates: str = PrivateAttr(default="")

    @property
    def root_certificates(self) -> str:
        """What stands in the file ca_root, PEM; empty without one."""
        return self._root_certificates

    def with_root_certificates(self, pem: str) -> "Acme":
        """Return the same with *pem* as what stands in the file ca_root."""
        copy = self.model_copy()
        copy._root_certificates = pem
        return copy


class Topology(Model):
    """The whole mail system, in one file."""

    proxy: Proxy
    client: Client
    tunnel: Tunnel = Tunnel()
    mail: Mail
    filter: Filter = Filter()
    bans: Bans = Bans()
    admin: Admin
    acme: Acme = Acme()
