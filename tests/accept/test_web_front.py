"""How mail programs set themselves up, as Caddy of the image serves it with certificates of pebble."""

import plistlib
import xml.etree.ElementTree as ElementTree

import pytest

from imagebuilder.dns.records import zone_records
from imagebuilder.secrets.keys import new_secrets, public_keys
from imagebuilder.topology import Role
from tests.accept.proxy_room import Room, told_in_a_room
from tests.accept.test_certificates import MAIL, NAMES, Certified

pytestmark = pytest.mark.accept

OUTLOOK = "{http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a}"


def certified_front(room: Room) -> Certified:
    """Return a front whose certificates are there."""
    world = Certified(room)
    caddy = world.start_caddy()
    for name in NAMES:
        room.until(lambda name=name: world.answers_verified(name), name, caddy, within_s=60)  # type: ignore[misc]
    return world


@told_in_a_room
def test_thunderbird_finds_its_settings_at_both_places(room: Room) -> None:
    world = certified_front(room)

    for name, path in (
        ("autoconfig.example.org", "/mail/config-v1.1.xml?emailaddress=alice%40example.org"),
        (MAIL, "/.well-known/autoconfig/mail/config-v1.1.xml"),
    ):
        response, page = world.get(name, path)
        settings = ElementTree.fromstring(page)
        servers = {
            server.tag: (server.findtext("hostname"), server.findtext("port"), server.findtext("socketType"))
            for kind in ("incomingServer", "outgoingServer")
            if (server := settings.find(f"emailProvider/{kind}")) is not None
        }
        assert response.status == 200
        assert (response.getheader("Content-Type") or "").startswith("text/xml")
        assert servers == {"incomingServer": (MAIL, "993", "SSL"), "outgoingServer": (MAIL, "587", "STARTTLS")}
        assert [domain.text for domain in settings.findall("emailProvider/domain")] == ["example.org"]


@told_in_a_room
def test_outlook_gets_its_settings_with_the_address_it_asked_for(room: Room) -> None:
    world = certified_front(room)
    question = "<Autodiscover><Request><EMailAddress>alice@example.org</EMailAddress></Request></Autodiscover>"

    for path in ("/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml"):
        response, page = world.get("autodiscover.example.org", path, method="POST", body=question)
        protocols = {
            protocol.findtext(f"{OUTLOOK}Type"): protocol
            for protocol in ElementTree.fromstring(page).iter(f"{OUTLOOK}Protocol")
        }
        assert response.status == 200
        assert protocols.keys() == {"IMAP", "SMTP"}
        for protocol in protocols.values():
            assert protocol.findtext(f"{OUTLOOK}Server") == MAIL
            assert protocol.findtext(f"{OUTLOOK}LoginName") == "alice@example.org"


@told_in_a_room
def test_what_is_no_address_is_not_repeated(room: Room) -> None:
    world = certified_front(room)
    question = "<EMailAddress>&lt;b&gt;[[ env `HOME` ]]</EMailAddress>"

    _, outlook = world.get("autodiscover.example.org", "/autodiscover/autodiscover.xml", method="POST", body=question)
    _, apple = world.get(MAIL, "/apple.mobileconfig?email=%3Cb%3Ealice@example.org")

    assert {entry.text for entry in ElementTree.fromstring(outlook).iter(f"{OUTLOOK}LoginName")} == {None}
    assert plistlib.loads(apple)["PayloadContent"][0]["EmailAddress"] == ""


@told_in_a_room
def test_an_iphone_gets_a_profile(room: Room) -> None:
    world = certified_front(room)

    response, page = world.get(MAIL, "/apple.mobileconfig?email=alice%40example.org")
    [account] = plistlib.loads(page)["PayloadContent"]

    assert response.getheader("Content-Type") == "application/x-apple-aspen-config"
    assert account["EmailAddress"] == account["IncomingMailServerUsername"] == "alice@example.org"
    assert (account["IncomingMailServerHostName"], account["IncomingMailServerPortNumber"]) == (MAIL, 993)
    assert account["OutgoingMailServerPortNumber"] == 587


@told_in_a_room
def test_the_policy_for_other_servers_is_served_under_its_name_alone(room: Room) -> None:
    world = certified_front(room)
    rows = zone_records(world.topology, public_keys(new_secrets(world.topology)))

    response, policy = world.get("mta-sts.example.org", "/.well-known/mta-sts.txt")

    assert response.status == 200
    assert (response.getheader("Content-Type") or "").startswith("text/plain")
    assert policy.decode().splitlines()[:3] == ["version: STSv1", "mode: enforce", f"mx: {MAIL}"]
    assert world.get(MAIL, "/.well-known/mta-sts.txt")[0].status == 404
    assert any(row.owner == "_mta-sts.example.org." for row in rows)
    assert world.key_digest(Role.PROXY) == world.tlsa


@told_in_a_room
def test_the_four_names_answer_by_https_and_only_by_https(room: Room) -> None:
    world = certified_front(room)

    for name in NAMES:
        response, page = world.get(name, "/")
        assert response.status == 200
        assert b"This is a mail server." in page
        assert response.getheader("Server") is None
        assert response.getheader("Alt-Svc") is None
        assert world.get(name, "/elsewhere")[0].status == 404
