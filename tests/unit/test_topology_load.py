"""Reading a topology: whatever is wrong is said at once, with its place and a way out."""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuilder.errors import WrongInputError
from imagebuilder.topology import Topology, load_topology
from imagebuilder.topology.load import judged, parsed_toml

SMALL = Path(__file__).parent.parent / "topologies/small.toml"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINWoDz74vfzhS7W/RpK9B5P9dCkwQ5d4H4Coy6sDkgTO"


def small() -> dict[str, Any]:
    return tomllib.loads(SMALL.read_text())


def with_value(where: str, value: object) -> dict[str, Any]:
    """Return the small topology with *value* at *where*, written as in a problem's place."""
    document = small()
    steps = where.replace("[", ".").replace("]", "").split(".")
    table: Any = document
    for step in steps[:-1]:
        table = table[int(step)] if step.isdigit() else table.setdefault(step, {})
    last = steps[-1]
    table[int(last) if last.isdigit() else last] = value
    return document


def problems(document: dict[str, Any]) -> dict[str, str]:
    return {problem.place: problem.message for problem in judged(document)[1]}


def refused(path: Path) -> WrongInputError:
    with pytest.raises(WrongInputError) as caught:
        load_topology(path)
    return caught.value


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """A function that writes a topology file and returns its path."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "topology.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_the_small_topology_is_accepted() -> None:
    topology = load_topology(SMALL)

    assert topology.proxy.hostname == "mail.example.org"
    assert str(topology.tunnel.client_address) == "10.0.0.2"
    assert problems(small()) == {}


def test_a_missing_file_is_named_and_init_is_the_way_out(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere.toml")

    assert "nowhere.toml" in str(error)
    assert "there is no such file" in str(error)
    assert error.hint == "imagebuilder init writes one"
    assert error.status == 2


def test_a_directory_is_no_topology(tmp_path: Path) -> None:
    assert "is a directory" in str(refused(tmp_path))


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "is no regular file" in str(refused(tmp_path / "pipe"))


def test_a_path_that_no_system_call_takes_is_a_problem_and_no_traceback() -> None:
    refused(Path("a\0b"))
    refused(Path("a" * 5000))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[proxy\n", "is not TOML"),
        (b"a = 1\na = 2\n", "is not TOML"),
        (b"a = 2024-13-45\n", "is not TOML"),
        (b"a = " + b"9" * 5000, "is not TOML"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"\n\nname = '\xff\xfe'\n", "byte 0xff in line 3"),
        ("[proxy]\n".encode("utf-16"), "is not UTF-8 text"),
        (b"[proxy]\rhostname = 1", "is not TOML"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_in_one_sentence(
    written: Callable[[str | bytes], Path], content: bytes, said: str
) -> None:
    error = refused(written(content))

    assert said in str(error)
    assert len(error.problems) == 1


def test_an_empty_file_lacks_each_required_table(written: Callable[[str | bytes], Path]) -> None:
    assert [str(problem) for problem in refused(written("")).problems] == [
        f"{table}: is missing; it is required" for table in ("proxy", "client", "mail", "admin")
    ]


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_what_editors_on_windows_write_is_read(
    written: Callable[[str | bytes], Path], change: Callable[[str], str]
) -> None:
    assert load_topology(written(change(SMALL.read_text()))) == load_topology(SMALL)


def test_a_huge_file_is_refused_unread(written: Callable[[str | bytes], Path]) -> None:
    path = written("")
    os.truncate(path, 2**40)

    assert "is larger than" in str(refused(path))


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("proxy.hostnam", "x", "did you mean 'hostname'?"),
        ("proxi", {}, "did you mean 'proxy'?"),
        ("client.port", 1, "it belongs in [tunnel]"),
        ("mail.mailboxes[1].quota", 1, "did you mean 'quota_mib'?"),
        ("tunnel.zzz", 1, "there are network, network_ipv6, port, mtu, keepalive_s"),
        ("mail.mailboxes[0].quota_mib", "5120", "'5120': a whole number is wanted"),
        ("mail.mailboxes[0].quota_mib", True, "true: a whole number is wanted"),
        ("mail.mailboxes[0].quota_mib", 5120.0, "5120.0: a whole number is wanted"),
        ("mail.mailboxes[0].quota_mib", 0, "0: at least 1 is wanted"),
        ("mail.mailboxes[0].quota_mib", 2**80, "a number far too large"),
        ("mail.mailboxes[0].send_only", "no", "'no': true or false is wanted"),
        ("mail.mailboxes[0].aliases", "a@example.org", "'a@example.org': a list is wanted"),
        ("mail.mailboxes[0].sieve", "  ", "is empty; leave the key out instead"),
        ("mail.mailboxes[0].sieve", "keep;\x00", "has a control character in it"),
        ("mail.mailboxes", [], "is empty; at least one is wanted"),
        ("mail.mailboxes", {"address": "a@example.org"}, "a table: a list is wanted"),
        ("mail.aliases[0].targets", [], "is empty; at least one is wanted"),
        ("mail", 7, "7: a table is wanted"),
        ("client.suite", "natve", "did you mean 'native'?"),
        ("client.suite", 1, "1: 'native' or 'mailcow' is wanted"),
        ("tunnel.mtu", 1500, "1500: at most 1440 is wanted"),
        ("tunnel.port", -1, "-1: at least 1 is wanted"),
        ("mail.domains[0].dkim_selector", "Dkim_1", "lower-case letters, digits and hyphens are wanted"),
        ("mail.domains[0].dkim_selector", "a" * 64, "at most 63"),
        ("acme.directory", "http://ca.example.org/dir", "is no https URL"),
        ("acme.directory", "https://ca.example.org/a b", "is no https URL"),
        ("acme.directory", "https://user@ca.example.org/", "is no https URL"),
        ("acme.directory", "https://ca.example.org/{env.X}", "is no https URL"),
        ("acme.directory", "https:///directory", "is no https URL"),
        ("acme.ca_root", "-----BEGIN CERTIFICATE-----", "its path is wanted"),
        ("proxy.boot_disk", "vda", "'vda' is no disk"),
        ("proxy.boot_disk", "/dev/../etc/passwd", "is no disk"),
        ("proxy.boot_disk", "/dev/vda; reboot", "is no disk"),
    ],
)
def test_a_wrong_value_is_shown_at_its_place(where: str, value: object, said: str) -> None:
    found = problems(with_value(where, value))

    assert set(found) == {where}
    assert said in found[where]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("300.1.1.1/24", "no IPv4 address"),
        ("198.18.0.10", "the length of the prefix is missing"),
        ("198.18.0.10/", "the length of the prefix is missing"),
        ("198.18.0.10/33", "missing or impossible"),
        ("198.18.0.10/-1", "missing or impossible"),
        ("198.18.0.10/00000024", "missing or impossible"),
        ("198.18.0.10/099", "missing or impossible"),
        ("198.18.0.10/255.255.255.0", "missing or impossible"),
        ("198.18.0.10/٢٤", "missing or impossible"),
        ("2001:2::1/64", "a plain IPv4 address is wanted"),
        ("mail.example.org", "no IPv4 address"),
        ("", "no IPv4 address"),
        (3323068426, "a string is wanted"),
        (True, "a string is wanted"),
        (["198.18.0.10/24"], "a string is wanted"),
    ],
)
def test_an_impossible_public_address_is_refused(value: object, said: str) -> None:
    found = problems(with_value("proxy.ipv4", value))

    assert set(found) == {"proxy.ipv4"}
    assert said in found["proxy.ipv4"]


def test_a_network_with_host_bits_gets_the_network_as_suggestion() -> None:
    assert "did you mean '10.9.0.0/24'?" in problems(with_value("tunnel.network", "10.9.0.7/24"))["tunnel.network"]
    found = problems(with_value("tunnel.network_ipv6", "fd00:1::7/64"))
    assert "did you mean 'fd00:1::/64'?" in found["tunnel.network_ipv6"]


def test_an_address_with_a_zone_or_a_needless_prefix_is_refused() -> None:
    assert "plain IPv6" in problems(with_value("proxy.ipv6_gateway", "fe80::1%eth0"))["proxy.ipv6_gateway"]
    assert "only the address" in problems(with_value("proxy.ipv4_gateway", "198.18.0.1/24"))["proxy.ipv4_gateway"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mail.example.org.", "without the dot"),
        ("mail", "has no domain"),
        ("198.18.0.10", "is an address"),
        ("https://mail.example.org", "is no host name"),
        ("mail..example.org", "is no host name"),
        (".example.org", "is no host name"),
        ("-mail.example.org", "is no host name"),
        ("mail_1.example.org", "is no host name"),
        ("*.example.org", "is no host name"),
        ("mail.example.org\n", "is no host name"),
        (f"{'a' * 64}.example.org", "at most 63"),
        (".".join(["a" * 60] * 5), "at most 253"),
        ("straße.example.org", "write its xn-- form"),
        ("", "is no host name"),
        ("ma il.example.org", "is no host name"),
        ("\u0378.example.org", "is no host name"),
        ("✉.example.org", "neither letter nor digit"),
    ],
)
def test_an_impossible_host_name_is_refused(name: str, said: str) -> None:
    found = problems(with_value("proxy.hostname", name))

    assert said in found["proxy.hostname"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("alice", "has no @"),
        ("@example.org", "can't stand before the @"),
        ("a..b@example.org", "can't stand before the @"),
        (".a@example.org", "can't stand before the @"),
        ("a b@example.org", "can't stand before the @"),
        ('"a"@example.org', "can't stand before the @"),
        ("a@b@example.org", "can't stand before the @"),
        ("a@example.org\n", "is no host name"),
        ("a\n@example.org", "can't stand before the @"),
        ("älice@example.org", "only ASCII"),
        (f"{'a' * 65}@example.org", "at most 64"),
        ("alice@", "is no host name"),
        ("alice@localhost", "has no domain"),
        ("Alice <alice@example.org>", "can't stand before the @"),
    ],
)
def test_an_impossible_mail_address_is_refused(address: str, said: str) -> None:
    assert said in problems(with_value("mail.mailboxes[1].address", address))["mail.mailboxes[1].address"]


def test_names_are_kept_in_lower_case_and_international_ones_as_a_labels() -> None:
    document = with_value("mail.domains[0].name", "Bücher.Example")
    document["mail"]["mailboxes"] = [{"address": "Alice@BÜCHER.example"}]
    document["mail"]["aliases"] = []
    document["proxy"]["hostname"] = "Mail.bücher.example"
    document["client"]["hostname"] = "home.xn--bcher-kva.example"
    document["admin"]["email"] = "alice@bücher.example"

    topology, found = judged(document)

    assert found == ()
    assert topology is not None
    assert topology.mail.domains[0].name == "xn--bcher-kva.example"
    assert topology.mail.mailboxes[0].address == "alice@xn--bcher-kva.example"
    assert topology.proxy.hostname == "mail.xn--bcher-kva.example"


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        f"{KEY} alice@laptop",
        f'from="198.51.100.0/24,!198.51.100.7",no-pty {KEY} name with spaces',
        f'command="echo \\"ssh-ed25519 x\\"" {KEY}',
    ],
)
def test_a_public_ssh_key_is_taken_as_in_authorized_keys(key: str) -> None:
    topology, found = judged(with_value("admin.ssh_keys", [key]))

    assert found == ()
    assert topology is not None
    assert topology.admin.ssh_keys == (key,)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "is no public SSH key"),
        ("~/.ssh/id_ed25519.pub", "is no public SSH key"),
        ("ssh-ed25519", "is no public SSH key"),
        ("ssh-ed25519 AAAA", "damaged"),
        (f"{KEY[:-8]}", "damaged"),
        (KEY.replace("ssh-ed25519", "ssh-rsa", 1), "damaged"),
        (f"{KEY}\n{KEY}", "more than one line"),
        (f"{KEY} a\x07b", "can't be printed"),
        ("ssh-dss AAAAB3NzaC1kc3MAAAAA", "ssh-dss"),
        (KEY.replace("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com", 1), "is a certificate"),
    ],
)
def test_what_is_no_usable_public_key_is_refused(key: str, said: str) -> None:
    assert said in problems(with_value("admin.ssh_keys", [KEY, key]))["admin.ssh_keys[1]"]


PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAASECRET\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "where", ["admin.ssh_keys", "admin.email", "admin.zzz", "proxy.hostname", "proxy.ipv4", "client.suite", "tunnel"]
)
@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: [text], lambda text: text.splitlines()])
def test_a_private_key_is_refused_wherever_it_is_pasted_and_never_repeated(
    where: str, wrap: Callable[[str], object], written: Callable[[str | bytes], Path]
) -> None:
    error = refused(written(tomli_w.dumps(with_value(where, wrap(PRIVATE)))))

    assert "SECRET" not in str(error) + repr(error)
    assert "b3BlbnNzaC1rZXktdjE" not in str(error)
    assert error.__cause__ is None


def test_problems_of_the_model_and_of_the_rules_are_told_together() -> None:
    document = with_value("mail.mailboxes[1].quota_mib", "much")
    document["mail"]["mailboxes"].append({"address": "zoe@exmaple.org", "alias": []})
    document["tunnel"]["network"] = "198.18.0.0/16"
    document["proxy"]["ipv6"] = 6

    found = problems(document)

    assert set(found) == {
        "proxy.ipv6", "mail.mailboxes[1].quota_mib", "mail.mailboxes[2].alias", "mail.mailboxes[2].address",
        "tunnel.network",
    }  # fmt: skip
    assert found["mail.mailboxes[2].address"] == "'zoe@exmaple.org': no such mail domain; did you mean 'example.org'?"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("mail.domains[0].name", "exa mple.org"),
        ("mail.mailboxes[0].address", "alice@@example.org"),
        ("mail.mailboxes[0].aliases", ["x"]),
        ("mail.mailboxes[0].alias", ["b@example.org"]),
        ("mail.domains", "example.org"),
        ("mail.mailboxes", "alice@example.org"),
        ("mail.aliases", 3),
        ("mail", []),
        ("proxy.dhcp", "yes"),
        ("proxy.ipv4", 1),
        ("proxy.ipv4_gateway", 1),
        ("proxy.ipv6", 1),
        ("proxy.ipv6_gateway", 1),
        ("proxy", 1),
        ("client", 1),
        ("tunnel.network", 1),
        ("admin", 1),
        ("admin.domains", [1]),
    ],
)
def test_one_mistake_makes_one_problem_and_no_others_that_only_follow(where: str, value: object) -> None:
    document = with_value(where, value)
    if where == "mail.mailboxes[0].alias":
        document["mail"]["aliases"][0]["targets"] = ["b@example.org"]
    if where == "proxy.dhcp":
        del document["proxy"]["ipv4_gateway"]
    if where == "admin.domains":
        document["client"]["hostname"] = "home.example.net"

    assert len(problems(document)) == 1


def test_a_root_certificate_that_is_none_is_named(written: Callable[[str | bytes], Path]) -> None:
    path = written(tomli_w.dumps(with_value("acme.ca_root", "root.pem")))

    assert "is no file" in str(refused(path))
    (path.parent / "root.pem").write_text("hello\n")
    assert "has no certificate in PEM form" in str(refused(path))


scalars = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(), st.dates(), st.times(), st.datetimes(),
    st.sampled_from(["example.org", "a@example.org", "198.18.0.10/24", "10.0.0.0/8", "fe80::1", "::1/0", KEY, PRIVATE]),
)  # fmt: skip
names = st.one_of(
    st.text(),
    st.sampled_from(
        [*Topology.model_fields, "domains", "mailboxes", "aliases", "address", "targets", "name", "ipv4", "hostname"]
    ),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=20
)


@given(st.dictionaries(names, values))
@settings(deadline=None)
def test_no_document_at_all_breaks_the_check(document: dict[str, Any]) -> None:
    topology, found = judged(document)

    assert (topology is None) <= bool(found)
    assert all(problem.message and "\n" not in str(problem) for problem in found)


places = st.sampled_from(
    [
        f"{table}.{key}"
        for table, model in (
            ("proxy", "hostname ipv4 ipv4_gateway ipv6 ipv6_gateway dhcp boot_disk"),
            ("client", "hostname suite ipv4 ipv4_gateway"),
            ("tunnel", "network network_ipv6 port mtu keepalive_s"),
            ("admin", "email ssh_keys domains"),
            ("acme", "directory ca_root"),
            ("mail", "domains mailboxes aliases"),
            ("mail.domains[0]", "name dkim_selector max_message_mib catch_all"),
            ("mail.mailboxes[0]", "address quota_mib aliases send_only sieve"),
            ("mail.aliases[0]", "address targets"),
        )
        for key in model.split()
    ]
)


@given(places, values)
@settings(deadline=None)
def test_no_value_at_any_place_breaks_the_check(where: str, value: object) -> None:
    topology, found = judged(with_value(where, value))

    assert topology is not None or found


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_at_all_break_the_reading(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "topology.toml"
    path.write_bytes(content)

    refused(path)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_a_topology_with_a_piece_cut_out_or_put_in_is_accepted_or_refused_but_never_a_traceback(
    data: st.DataObject,
) -> None:
    text = SMALL.read_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    piece = data.draw(st.sampled_from(["", '"', "]", "[[", "\x00", "9" * 30, "=", "\n", "{}", "true", "é"]))

    try:
        judged(parsed_toml(Path("x"), (text[:start] + piece + text[end:]).encode()))
    except WrongInputError as error:
        assert error.problems
