"""The hosts that images were deployed to, for tests that disturb nobody: real names, real lines, guests for a while.

Owns the connections to both hosts, mailboxes that are there as long as the tests, and the stranger's mail server.
"""

import contextlib
import os
import secrets
import ssl
import tempfile
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.dns.records import Record, zone_records
from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import say
from imagebuilder.secrets.keys import hashed, new_password
from imagebuilder.shipping.arrival import way_in
from imagebuilder.shipping.remote import Address
from imagebuilder.shipping.residence import addressed
from imagebuilder.topology import PublicKeys, Role, Topology
from imagebuilder.vm.authority import Issuer
from imagebuilder.vm.host import Host, ThisMachine, own_address
from imagebuilder.vm.identity import Guest
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.mta import MailServer
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.reached import Reached
from imagebuilder.vm.sightings import Sightings
from imagebuilder.vm.tested import Tested
from imagebuilder.vm.waiting import NATURAL, Patience

GUESTS = 2
GUEST_QUOTA_MIB = 64
JOURNAL_LINES = 60
FAREWELL = """\
for file in "$BED_FOLDER"/guests/*; do [ ! -e "$file" ] || cat "$file" >"/run/guests/${file##*/}"; done
systemctl reload postfix rspamd
rm -rf /var/vmail/*/guest-TOKEN-*
"""
"""Leaves the client as it was."""


@dataclass(frozen=True)
class Deployment(Tested):
    """Images that were shipped, and how to get at the hosts that run them."""

    identity: Path | None = None
    """Private key of the administrator; None: what ssh's own settings offer."""
    domain: str | None = None
    """Mail domain whose server this machine is; None: there is no stranger."""
    certificate: Path | None = None
    """Key and certificate of that server, PEM; None: one that nobody knows, as most servers take."""
    patience: Patience = NATURAL


@dataclass(frozen=True)
class Residents:
    """Both hosts."""

    machines: Mapping[Role, Inside]
    images: Mapping[Role, Image]

    @property
    def proxy(self) -> Inside:
        """The host on the Internet."""
        return self.machines[Role.PROXY]

    @property
    def client(self) -> Inside:
        """The host at home."""
        return self.machines[Role.CLIENT]


@dataclass(frozen=True)
class Abroad:
    """The Internet, as this machine sees it: here are both the stranger and the user abroad."""

    topology: Topology
    public: PublicKeys
    stranger: Host
    user: Host
    trust: ssl.SSLContext

    @property
    def records(self) -> tuple[Record, ...]:
        """What the operator is to publish."""
        return zone_records(self.topology, self.public)

    def lost_packets(self) -> None:
        """Say that nobody can tell."""


@dataclass
class Deployed:
    """What the tests work with; by `deployed`."""

    subject: Deployment
    pair: Residents
    world: Abroad
    server: MailServer | None
    guests: Mapping[str, str] = field(repr=False)
    """Passwords by address."""
    seen: Sightings = field(default_factory=Sightings)

    @property
    def patience(self) -> Patience:
        """How long to wait for what."""
        return self.subject.patience

    def person(self, number: int) -> Person:
        """Return the *number*-th guest."""
        address = tuple(self.guests)[number]
        return Person(
            address,
            self.guests[address],
            self.subject.topology,
            self.world.user,
            self.patience,
            self.world.trust,
            arrived=self.seen.arrived,
        )

    def stranger(self) -> Stranger | None:
        """Return the stranger; None when this machine is no mail server."""
        if self.server is None:
            return None
        domain = self.subject.domain
        return Stranger(
            self.subject.topology,
            self.world.stranger,
            self.server,
            self.patience,
            self.world.trust,
            address=f"someone@{domain}",
            helo=f"mx.{domain}",
            arrived=self.seen.arrived,
            judged=self.seen.judged,
        )

    def journals(self) -> dict[str, str]:
        """Return the end of each host's journal, or why there is none, for a failed test."""
        found = {}
        for machine in self.pair.machines.values():
            try:
                found[machine.name] = machine.journal(lines=JOURNAL_LINES)
            except (ImagebuilderError, AssertionError) as error:
                found[machine.name] = str(error)
        return found


class NoServerError(ImagebuilderError):
    """This machine can't be the mail server that it is said to be."""

    status = ExitStatus.WRONG_INPUT


@contextlib.contextmanager
def deployed(subject: Deployment) -> Iterator[Deployed]:
    """Yield the hosts of *subject*, with guests; all that was brought is gone afterwards, even when we are killed."""
    topology, token = subject.topology, secrets.token_hex(4)
    with contextlib.ExitStack() as stack:
        addresses = {role: stack.enter_context(_address(subject, role)) for role in Role}
        machines: dict[Role, Inside] = {}
        for role, address in addresses.items():
            farewell = FAREWELL.replace("TOKEN", token) if role is Role.CLIENT else "true"
            machines[role] = stack.enter_context(Reached(role, address, subject.patience, farewell=farewell))
            say(f"{role}: logged in to {address.host}")
        here = ThisMachine("here", _own_ipv4(machines[Role.PROXY]), _own_ipv6(topology))
        server = stack.enter_context(_mail_server(subject, here)) if subject.domain else None
        guests = {f"guest-{token}-{number}@{topology.mail.domains[0].name}": new_password() for number in range(GUESTS)}
        machines[Role.CLIENT].succeed(
            invitation(Guest(address, GUEST_QUOTA_MIB, hashed(word)) for address, word in guests.items())
        )
        world = Abroad(topology, subject.public, here, here, _trust(topology))
        yield Deployed(subject, Residents(machines, subject.images), world, server, guests)


def invitation(guests: Iterable[Guest]) -> str:
    """Return the script that lets *guests* in as those of the secrets partition are at the client's start. Pure.

    See overlays/guests: Dovecot, Postfix and Rspamd are told.
    """
    lines = "".join(guest.line for guest in guests)
    return f"""\
set -e
umask 077
cp --archive /run/guests "$BED_FOLDER/guests"
{{ cat /run/guests/passwd; echo {b64encode(lines.encode()).decode()} | base64 --decode; }} >"$BED_FOLDER/lines"
/usr/lib/imagebuilder/guests "$BED_FOLDER/lines"
systemctl reload postfix rspamd
"""


def _address(subject: Deployment, role: Role) -> contextlib.AbstractContextManager[Address]:
    gate = Address(way_in(subject.topology, Role.PROXY), identity=subject.identity)
    if role is Role.PROXY:
        return addressed(gate, role, subject.public.ssh)
    return addressed(Address(way_in(subject.topology, role), identity=subject.identity), role, subject.public.ssh, gate)


def _own_ipv4(proxy: Inside) -> IPv4Address:
    """Return the address that *proxy*, which was called by IPv4, sees us at: past any router on the way."""
    return IPv4Address(proxy.succeed("echo ${SSH_CONNECTION%% *}").strip())


def _own_ipv6(topology: Topology) -> IPv6Address | None:
    """Return the address that we call the proxy from by IPv6; None when there is no way."""
    if topology.proxy.ipv6 is None:
        return None
    try:
        return IPv6Address(own_address(topology.proxy.ipv6.ip))
    except OSError:
        return None


def _trust(topology: Topology) -> ssl.SSLContext:
    """Return how certificates are verified: by the public roots, or those of the topology's own authority."""
    context = ssl.create_default_context()
    if roots := topology.acme.root_certificates:
        context.load_verify_locations(cadata=roots)
    return context


@contextlib.contextmanager
def _mail_server(subject: Deployment, here: Host) -> Iterator[MailServer]:
    """Yield the running mail server of the stranger's domain."""
    assert subject.domain
    if os.geteuid():
        raise NoServerError("only root can be a mail server, on port 25", hint="sudo, or leave out --as")
    try:
        certificate = (
            subject.certificate.read_bytes() if subject.certificate else Issuer.new().certify([f"mx.{subject.domain}"])
        )
    except OSError as error:
        raise NoServerError(f"{subject.certificate} can't be read: {str(error.strerror).lower()}") from None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # Postfix has users of its own
        server = MailServer(subject.tools, here, Path(folder), (subject.domain,), certificate)
        server.start()
        try:
            yield server
        finally:
            server.stop()
