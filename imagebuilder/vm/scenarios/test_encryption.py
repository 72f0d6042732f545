"""How connections to the open doors are encrypted, and how they never are."""

# ruff: noqa: D103 (the name of a test is its sentence)

import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imagebuilder.topology import Topology
from imagebuilder.vm.inside import Inside
from imagebuilder.vm.people import IMAPS, SMTP, SUBMISSION
from imagebuilder.vm.surroundings import Outside
from imagebuilder.vm.wire import wire
from imagebuilder.vm.world import unverified

pytestmark = pytest.mark.settled

PORTS = [SMTP, SUBMISSION, IMAPS]
OLD_CIPHERS = "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA:AES128-SHA:AES256-GCM-SHA384"
"""No authenticated encryption, or no forward secrecy."""


def only(newest: ssl.TLSVersion, oldest: ssl.TLSVersion, ciphers: str | None = None) -> ssl.SSLContext:
    """Return a context that speaks nothing but these, however old."""
    context = unverified()
    context.set_ciphers(f"{ciphers or 'ALL'}:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is the point
        context.minimum_version, context.maximum_version = oldest, newest
    return context


@contextmanager
def shaken(
    world: Outside, topology: Topology, port: int, context: ssl.SSLContext, within_s: float
) -> Iterator[ssl.SSLSocket]:
    """Yield the connection after the handshake at *port*; raise OSError when it fails."""
    address, name = topology.proxy.ipv4.ip, topology.proxy.hostname
    if port == IMAPS:
        plain = world.stranger.connect(address, port, within_s=within_s)
        with context.wrap_socket(plain, server_hostname=name) as inside:
            yield inside
        return
    with wire(world.stranger, address, port, within_s=within_s) as line:
        line.order("EHLO mx.stranger.example")
        assert line.order("STARTTLS").code == 220
        yield line.encrypt(context, name)


def refused(world: Outside, topology: Topology, port: int, context: ssl.SSLContext, within_s: float) -> bool:
    """Return whether the other side wants no handshake with *context*."""
    try:
        with shaken(world, topology, port, context, within_s):
            return False
    except OSError as error:
        # what our own library refuses says nothing about theirs
        assert getattr(error, "reason", None) not in ("NO_PROTOCOLS_AVAILABLE", "NO_CIPHERS_AVAILABLE")
        return True


@pytest.mark.gentle
@pytest.mark.parametrize("port", PORTS)
def test_nothing_older_than_tls_1_2_is_spoken(proxy: Inside, world: Outside, topology: Topology, port: int) -> None:
    limit = proxy.patience.seconds(10)
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        assert refused(world, topology, port, only(version, version), limit), version


@pytest.mark.gentle
@pytest.mark.parametrize("port", PORTS)
def test_old_ciphers_are_refused_and_modern_ones_taken(
    proxy: Inside, world: Outside, topology: Topology, port: int
) -> None:
    limit, two, three = proxy.patience.seconds(10), ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

    assert refused(world, topology, port, only(two, two, OLD_CIPHERS), limit)
    for context in (only(two, two, "ECDHE+AESGCM"), only(three, three)):
        with shaken(world, topology, port, context, limit) as connection:
            assert connection.version() in ("TLSv1.2", "TLSv1.3")
