"""Whoever connects sees a certificate of the authority: its root, its names and its dates are verified each time."""

# ruff: noqa: D103 (the name of a test is its sentence)

from collections.abc import Callable
from ssl import DER_cert_to_PEM_cert, SSLSocket

import pytest

from imagebuilder.services.certificate import public_names
from imagebuilder.topology import Topology
from imagebuilder.vm.authority import tlsa
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import IMAPS, SMTP, SUBMISSION
from imagebuilder.vm.readiness import STARTTLS, secured
from imagebuilder.vm.surroundings import Machines, Outside
from imagebuilder.vm.web import HTTPS

Shown = Callable[..., str]
"""Returns the certificate that a name and port show to somebody who verifies it, PEM."""


@pytest.fixture
def shown(pair: Machines, world: Outside) -> Shown:
    def shown(name: str, port: int, *, first: tuple[bytes, ...] = ()) -> str:
        with secured(world, name, port, first=first) as connection:
            return certificate_of(connection)

    return shown


def certificate_of(connection: SSLSocket) -> str:
    found = connection.getpeercert(binary_form=True)
    assert found is not None
    return DER_cert_to_PEM_cert(found)


@pytest.mark.gentle
@pytest.mark.settled
def test_each_name_of_the_web_front_shows_a_certificate_of_the_authority(shown: Shown, topology: Topology) -> None:
    names = public_names(topology)
    assert len(names) >= 4

    assert len({shown(name, HTTPS) for name in names}) == len(names)


@pytest.mark.settled
def test_submission_and_imap_show_a_certificate_of_the_authority_whose_key_the_proxy_does_not_have(
    shown: Shown, topology: Topology, pair: Pair
) -> None:
    if topology.acme.dns_provider is not None:
        pytest.skip("the certificate comes by a DNS record, and nobody in this world makes one")
    host = topology.proxy.hostname

    users = {shown(host, SUBMISSION, first=STARTTLS), shown(host, IMAPS)}

    assert len(users) == 1
    (certificate,) = users
    assert key_of(certificate) in keys_on(pair.client)
    assert key_of(certificate) not in keys_on(pair.proxy)


@pytest.mark.gentle
@pytest.mark.settled
def test_mail_servers_see_the_key_that_the_tlsa_record_names(shown: Shown, topology: Topology, world: Outside) -> None:
    host = topology.proxy.hostname
    published = {record.rdata for record in world.records if record.owner == f"_25._tcp.{host}."}

    assert published == {key_of(shown(host, SMTP, first=STARTTLS))}


def key_of(certificate: str) -> str:
    """Return what a TLSA record says of the key of *certificate*."""
    return tlsa(certificate.encode())


def keys_on(machine: Machine) -> set[str]:
    """Return what TLSA records would say of the private keys that lie about on *machine*."""
    files = "grep -rlsE -e '-----BEGIN .*PRIVATE KEY' /var /run/credentials /run/credstore"
    one = 'openssl pkey -in "$file" -pubout -outform DER 2>/dev/null | sha256sum | cut -d" " -f1'
    digests = machine.succeed(f"{files} | while read -r file; do {one}; done").split()
    return {f"3 1 1 {digest}" for digest in digests}
