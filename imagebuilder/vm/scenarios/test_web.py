"""What the web front tells mail programs, other servers and everybody else."""

# ruff: noqa: D103 (the name of a test is its sentence)

import http.client
import plistlib
import ssl
import xml.etree.ElementTree as ElementTree

import dns.message
import dns.query
import pytest

from imagebuilder.dns.records import mta_sts_policy, zone_records
from imagebuilder.services.certificate import public_names
from imagebuilder.topology import Topology
from imagebuilder.vm.people import Person
from imagebuilder.vm.surroundings import Outside
from imagebuilder.vm.waiting import Seen, wait_for
from imagebuilder.vm.world import World

pytestmark = pytest.mark.settled

OUTLOOK = "{http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a}"


def asked(
    alice: Person, port: int, name: str, path: str, *, method: str = "GET", body: str | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[http.client.HTTPResponse, bytes]:  # fmt: skip
    """Return what the web front answers on *port* to a question for *name*."""
    limit = alice.patience.seconds(10)
    connection = http.client.HTTPConnection(name, port, timeout=limit)
    plain = alice.host.connect(alice.topology.proxy.ipv4.ip, port, within_s=limit)
    connection.sock = context.wrap_socket(plain, server_hostname=name) if context else plain
    try:
        connection.request(method, path, body, {"Host": name})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def page(
    alice: Person, world: Outside, name: str, path: str, *, method: str = "GET", body: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """Return the same by HTTPS, with the certificate verified, as soon as there is one."""
    found: list[tuple[http.client.HTTPResponse, bytes]] = []

    def look() -> Seen:
        try:
            found.append(asked(alice, 443, name, path, method=method, body=body, context=world.trust))
        except OSError as error:
            return Seen(False, f"{type(error).__name__}: {error}")
        return Seen(True, "an answer")

    wait_for(f"https://{name}{path}", look, within_s=alice.patience.seconds(60), every_s=1)
    return found[0]


@pytest.mark.gentle
def test_thunderbird_finds_its_settings_at_both_places(alice: Person, world: Outside, topology: Topology) -> None:
    host = topology.proxy.hostname
    for domain in topology.mail.domains:
        for name, path in (
            (f"autoconfig.{domain.name}", "/mail/config-v1.1.xml"),
            (host, "/.well-known/autoconfig/mail/config-v1.1.xml"),
        ):
            response, content = page(alice, world, name, f"{path}?emailaddress={alice.address.replace('@', '%40')}")
            settings = ElementTree.fromstring(content)
            servers = {
                (server.tag, *(server.findtext(key) for key in ("hostname", "port", "socketType")))
                for kind in ("incomingServer", "outgoingServer")
                for server in settings.iter(kind)
            }

            assert response.status == 200
            assert servers == {("incomingServer", host, "993", "SSL"), ("outgoingServer", host, "587", "STARTTLS")}
            assert domain.name in {each.text for each in settings.iter("domain")}


@pytest.mark.gentle
def test_outlook_gets_its_settings_for_the_address_it_asks_about(
    alice: Person, world: Outside, topology: Topology
) -> None:
    question = f"<Autodiscover><Request><EMailAddress>{alice.address}</EMailAddress></Request></Autodiscover>"
    for domain in topology.mail.domains:
        name = f"autodiscover.{domain.name}"
        response, content = page(alice, world, name, "/Autodiscover/Autodiscover.xml", method="POST", body=question)
        protocols = {
            each.findtext(f"{OUTLOOK}Type"): each for each in ElementTree.fromstring(content).iter(f"{OUTLOOK}Protocol")
        }

        assert response.status == 200
        assert protocols.keys() == {"IMAP", "SMTP"}
        for protocol in protocols.values():
            assert protocol.findtext(f"{OUTLOOK}Server") == topology.proxy.hostname
            assert protocol.findtext(f"{OUTLOOK}LoginName") == alice.address


@pytest.mark.gentle
def test_an_iphone_gets_a_profile(alice: Person, world: Outside, topology: Topology) -> None:
    path = f"/apple.mobileconfig?email={alice.address.replace('@', '%40')}"
    response, content = page(alice, world, topology.proxy.hostname, path)
    [account] = plistlib.loads(content)["PayloadContent"]

    assert response.getheader("Content-Type") == "application/x-apple-aspen-config"
    assert account["EmailAddress"] == account["OutgoingMailServerUsername"] == alice.address
    assert (account["IncomingMailServerHostName"], account["IncomingMailServerPortNumber"]) == (
        topology.proxy.hostname,
        993,
    )


@pytest.mark.gentle
def test_other_servers_find_the_policy_that_the_zone_promises(
    alice: Person, world: Outside, topology: Topology
) -> None:
    for domain in topology.mail.domains:
        response, content = page(alice, world, f"mta-sts.{domain.name}", "/.well-known/mta-sts.txt")

        assert response.status == 200
        assert (response.getheader("Content-Type") or "").startswith("text/plain")
        assert content.decode() == mta_sts_policy(topology)
    assert page(alice, world, topology.proxy.hostname, "/.well-known/mta-sts.txt")[0].status == 404


@pytest.mark.gentle
def test_every_name_has_a_certificate_and_no_page_tells_what_serves_it(
    alice: Person, world: Outside, topology: Topology
) -> None:
    for name in public_names(topology):
        response, _ = page(alice, world, name, "/")
        missing, _ = page(alice, world, name, "/elsewhere")

        assert (response.status, missing.status) == (200, 404)
        assert response.getheader("Server") is None
        assert response.getheader("Strict-Transport-Security") is not None
        assert "default-src 'none'" in (response.getheader("Content-Security-Policy") or "")


@pytest.mark.gentle
def test_plain_http_leads_to_https_and_foreign_names_nowhere(alice: Person, world: Outside, topology: Topology) -> None:
    for name in public_names(topology):
        response, _ = asked(alice, 80, name, "/some/where?x=y")

        assert response.status == 308
        assert response.getheader("Location") == f"https://{name}/some/where?x=y"
        assert response.getheader("Server") is None
    with pytest.raises((OSError, http.client.HTTPException)):
        asked(alice, 80, "somebody.example", "/")


def test_every_name_of_the_zone_is_there_and_every_door_that_it_promises_is_open(
    alice: Person, world: World, topology: Topology
) -> None:
    records = zone_records(topology, world.public)
    ports = {int(record.rdata.split()[2]) for record in records if record.type == "SRV"}

    assert ports == {443, 587, 993}
    for record in records:
        question = dns.message.make_query(record.owner, record.type)
        with world.stranger.entered():
            answer = dns.query.tcp(question, str(world.places.dns_ipv4), timeout=alice.patience.seconds(5))
        assert answer.answer, record.owner
    for port in ports:
        alice.host.connect(topology.proxy.hostname, port, within_s=alice.patience.seconds(10)).close()
