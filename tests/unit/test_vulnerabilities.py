import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.sbom.components import Component, Ecosystem
from imagebuilder.sbom.vulnerabilities import Finding, Urgency, WrongDataError, findings, parse, unpacked

DATA = """VERSION 1
CVE-2026-0001,,A heap overflow, reachable from the network
CVE-2026-0002,,A leak
CVE-2026-0003,,Nobody has judged this yet
CVE-2026-0004,,Only one binary package

openssl,0, HRF,3.6.0-1,3.5.7-1~deb13u4 3.0.19-1~deb12u1
openssl,1, L  ,,3.5.7-1~deb13u3
bash,2,  ? ,,
zlib1g-dev,3,BM F,1:1.3.2-1,
zlib,0, M  ,1:1.2-1,

bash,bash bash-doc
openssl,libssl3t64 openssl
"""


def debian(name: str, version: str, source: str, source_version: str) -> Component:
    return Component(Ecosystem.DEBIAN, name, version, "0" * 64, ("proxy",), "amd64", source, source_version)


LIBSSL = debian("libssl3t64", "3.5.7-1~deb13u3", "openssl", "3.5.7-1~deb13u3")
OPENSSL = debian("openssl", "3.5.7-1~deb13u3", "openssl", "3.5.7-1~deb13u3")
BASH = debian("bash", "5.2.37-2+b10", "bash", "5.2.37-2")
ZLIB = debian("zlib1g", "1:1.3.1-1", "zlib", "1:1.3.1-1")
ZLIB_DEV = debian("zlib1g-dev", "1:1.3.1-1", "zlib", "1:1.3.1-1")


def found(*components: Component) -> list[Finding]:
    return list(findings(components, parse(DATA, source="data")))


def test_a_source_package_below_the_fix_is_a_finding_with_all_its_binary_packages() -> None:
    (finding,) = found(LIBSSL, OPENSSL)

    assert (finding.name, finding.urgency, finding.remote) == ("CVE-2026-0001", Urgency.HIGH, True)
    assert finding.components == (LIBSSL, OPENSSL)
    # not the lower version of the older release, nor unstable's
    assert finding.fixed == "3.5.7-1~deb13u4"
    assert str(finding) == (
        "CVE-2026-0001  high, remote  openssl 3.5.7-1~deb13u3 (libssl3t64, openssl): fixed in 3.5.7-1~deb13u4"
    )


@pytest.mark.parametrize("version", ["3.5.7-1~deb13u4", "3.0.19-1~deb12u1", "3.6.0-1", "4.0.0-1"])
def test_a_fixed_version_is_none(version: str) -> None:
    component = debian("openssl", version, "openssl", version)

    assert [finding.name for finding in found(component) if finding.urgency is Urgency.HIGH] == []


def test_a_vulnerability_without_a_fix_says_so() -> None:
    (finding,) = found(BASH)

    assert finding.urgency is Urgency.UNKNOWN
    assert str(finding).endswith("no fixed version is known")


def test_versions_are_compared_as_debian_does_with_epoch_and_tilde() -> None:
    assert found(ZLIB) == []
    old = debian("zlib1g", "1:1.2~rc1-1", "zlib", "1:1.2~rc1-1")
    assert [finding.fixed for finding in found(old)] == ["1:1.2-1"]


def test_an_advisory_of_a_binary_package_is_not_one_of_its_source() -> None:
    assert found(ZLIB) == []
    assert [finding.components for finding in found(ZLIB_DEV)] == [(ZLIB_DEV,)]


def test_npm_packages_are_not_taken_for_debian_packages() -> None:
    assert found(Component(Ecosystem.NPM, "bash", "1", "", ("bash",))) == []


def test_the_most_urgent_come_first() -> None:
    assert [finding.urgency for finding in found(BASH, ZLIB_DEV, OPENSSL)] == [3, 2, 0]


@given(st.sampled_from([lambda b: b, gzip.compress, zlib.compress]))
def test_data_may_be_plain_or_compressed(pack: object) -> None:
    assert callable(pack)
    assert unpacked(pack(DATA.encode()), source="x") == DATA


@pytest.mark.parametrize("content", [gzip.compress(b"x", mtime=0)[:-4], zlib.compress(b"x")[:-1], b"\xff\xfe"])
def test_damaged_data_is_one_sentence(content: bytes) -> None:
    with pytest.raises(WrongDataError, match="x is damaged"):
        unpacked(content, source="x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not in debsecan's format"),
        ("VERSION 0\n", "is not in debsecan's format"),
        ("VERSION 1\nCVE\n\n", "x:2: this line"),
        ("VERSION 1\nCVE,,a\n\nbash,1, H  ,,\n", "x:4: this line"),
        ("VERSION 1\nCVE,,a\n\nbash,-1, H  ,,\n", "x:4: this line"),
        ("VERSION 1\nCVE,,a\n\nbash,0, Q  ,,\n", "x:4: this line"),
        ("VERSION 1\nCVE,,a\n\nbash,0, H,,\n", "x:4: this line"),
        ("VERSION 1\nCVE,,a\n\nbash,0, H  ,not a version!,\n", "x:4: this line"),
        ("VERSION 1\nCVE,,a\n\nbash,0\n", "x:4: this line"),
    ],
)
def test_what_is_not_the_format_names_the_line(text: str, said: str) -> None:
    with pytest.raises(WrongDataError, match=said):
        parse(text, source="x")


@given(st.text())
def test_no_text_at_all_leads_to_another_error(text: str) -> None:
    for content in (text, f"VERSION 1\nCVE,,a\n\n{text}"):
        try:
            parse(content, source="x")
        except WrongDataError:
            continue
