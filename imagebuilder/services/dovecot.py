"""Dovecot on the client: mailboxes with their quotas and scripts. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.postfix import LOCAL_PORT
from imagebuilder.topology import Role

IMAPS_PORT = 10993
"""Where the proxy hands on port 993, on the client's tunnel address."""

POLICY_PORT = 10024
"""Where logins are reported, on the loopback address."""
SIEVE_PORT = 4190
"""ManageSieve (RFC 5804), on the client's tunnel address; the proxy passes it to nobody."""


@dataclass(frozen=True)
class MailboxRow:
    """A mailbox as Dovecot knows it."""

    address: str
    """Its address and login name."""
    quota_mib: int
    """Room for mail, in MiB."""


@dataclass(frozen=True)
class ScriptRow:
    """A user's Sieve script."""

    address: str
    """Whose it is."""
    escaped: str
    """The script in one line, as the argument of a line of tmpfiles.d."""


@dataclass(frozen=True)
class DovecotValues(Values):
    """What overlays/dovecot may refer to."""

    hostname: str
    """The name shown to the outside: the proxy's."""
    proxy_address: str
    """The proxy's address in the tunnel, whose PROXY headers are believed."""
    client_address: str
    """Our own address in the tunnel."""
    proxy_ipv6: str
    """The proxy's IPv6 address there."""
    client_ipv6: str
    """Our own."""
    imaps_port: int
    """Where users' connections come in."""
    sieve_port: int
    """Where scripts are managed, by those inside the tunnel."""
    policy_port: int
    """Where logins are reported."""
    local_port: int
    """Where Postfix takes replies and redirections of scripts."""
    mailboxes: tuple[MailboxRow, ...]
    """All mailboxes, by address."""
    scripts: tuple[ScriptRow, ...]
    """The scripts of those that have one, by address."""


def tmpfiles_argument(text: str) -> str:
    """Return *text* so that systemd-tmpfiles writes exactly it: C escapes, and % doubled (tmpfiles.d(5))."""
    escapes = {"\\": "\\\\", "%": "%%", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    written = "".join(escapes.get(character, character) for character in text)
    # an argument that starts with a blank would lose it
    return f"\\x20{written[1:]}" if written.startswith(" ") else written


def dovecot_values(site: Site) -> DovecotValues:
    """Return the values of Dovecot."""
    topology = site.topology
    boxes = sorted(topology.mail.mailboxes, key=lambda box: box.address)
    return DovecotValues(
        hostname=topology.proxy.hostname,
        proxy_address=str(topology.tunnel.proxy_address),
        client_address=str(topology.tunnel.client_address),
        proxy_ipv6=str(topology.tunnel.proxy_ipv6),
        client_ipv6=str(topology.tunnel.client_ipv6),
        imaps_port=IMAPS_PORT,
        sieve_port=SIEVE_PORT,
        policy_port=POLICY_PORT,
        local_port=LOCAL_PORT,
        mailboxes=tuple(MailboxRow(box.address, box.quota_mib) for box in boxes),
        scripts=tuple(ScriptRow(box.address, tmpfiles_argument(box.sieve)) for box in boxes if box.sieve),
    )


SERVICE = Service(name="dovecot", roles=(Role.CLIENT,), values=dovecot_values, units=("dovecot.service",))
