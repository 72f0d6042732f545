from imagebuilder.lock.debian import planned, stanzas
from imagebuilder.lock.wanted import packages_in, wanted_packages

PRINTED = """\
'http://a.example/debian/pool/main/d/dash/dash_0.5.12-12_amd64.deb' dash_0.5.12-12_amd64.deb 98500 MD5Sum:aa
'http://a.example/debian/pool/main/d/x.deb' dovecot-core_1%3a2.4.1+dfsg1-6_amd64.deb 1 SHA256:bb
"""


def test_what_apt_would_install_is_read_with_epochs() -> None:
    assert planned(PRINTED) == (("dash", "0.5.12-12"), ("dovecot-core", "1:2.4.1+dfsg1-6"))


def test_packages_are_read_from_mkosi_settings_without_comments() -> None:
    text = "[Content]\nPackages=\n    # why\n    a\n    b # because\nWithDocs=no\nPackages=c d\n"

    assert list(packages_in(text)) == ["a", "b", "c", "d"]


def test_stanzas_keep_single_lines() -> None:
    found = list(stanzas("Package: a\nDepends: b,\n c\nSHA256: 1\n\nPackage: d\n"))

    assert [stanza["Package"] for stanza in found] == ["a", "d"]
    assert found[0]["SHA256"] == "1"


def test_both_roles_stand_on_the_base() -> None:
    wanted = wanted_packages()

    assert all("systemd" in names for closure, names in wanted.items())
    assert "haproxy" in wanted["proxy"]  # type: ignore[index]
    assert "haproxy" not in wanted["client"]  # type: ignore[index]
