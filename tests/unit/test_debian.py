from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock.debian import Apt, mirrors, mirrors_in, uris_in
from imagebuilder.lock.model import Archive

DEB822 = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm

Types: deb
URIs: http://mirror.example/debian-security http://other.example/debian-security
"""


@pytest.mark.parametrize(
    ("text", "uris"),
    [
        ("deb http://a.example/debian trixie main\n", ["http://a.example/debian"]),
        ("deb [arch=amd64 signed-by=/x] http://a.example/debian trixie main", ["http://a.example/debian"]),
        ("# deb http://a.example/debian trixie main\ndeb-src http://a.example/debian trixie main\n", []),
        (
            DEB822,
            [
                "http://mirror.example/debian",
                "http://mirror.example/debian-security",
                "http://other.example/debian-security",
            ],
        ),
    ],
)
def test_archives_are_found_in_both_formats_of_apt(text: str, uris: list[str]) -> None:
    assert list(uris_in(text)) == uris


def test_the_first_mirror_of_each_archive_is_taken() -> None:
    found = mirrors_in(iter(["http://b.example/other", "http://a.example/debian/", "http://c.example/debian"]))

    assert found == {
        Archive.DEBIAN: "http://a.example/debian",
        Archive.SECURITY: "http://a.example/debian-security",
    }


def test_the_environment_goes_before_the_machine(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://a.example/debian trixie main\n")

    found = mirrors(tmp_path, {"IMAGEBUILDER_MIRROR": "http://mine.example/debian/"})

    assert found[Archive.DEBIAN] == "http://mine.example/debian"
    assert found[Archive.SECURITY] == "http://a.example/debian-security"


def test_a_machine_without_a_mirror_is_told_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ImagebuilderError) as caught:
        mirrors(tmp_path, {})
    assert caught.value.hint
    assert "IMAGEBUILDER_MIRROR=" in caught.value.hint


def test_apt_trusts_the_archive_keys_alone(tmp_path: Path) -> None:
    sources = Apt(tmp_path, {archive: f"http://a.example/{archive}" for archive in Archive}).sources()

    assert len(sources.splitlines()) == 3
    assert all("signed-by=/usr/share/keyrings/debian-archive-keyring.gpg" in line for line in sources.splitlines())


def test_an_archive_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    apt = Apt(tmp_path / "apt", dict.fromkeys(Archive, "http://127.0.0.1:9/debian"))
    apt.prepare()

    with pytest.raises(ImagebuilderError) as caught:
        apt.update()
    assert str(caught.value).startswith("the mirror http://127.0.0.1:9/debian can't be reached: Could not connect")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
