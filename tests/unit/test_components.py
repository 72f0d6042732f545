import json

import pytest

from imagebuilder.lock.model import Archive, Closure, LockedPackage
from imagebuilder.sbom.components import Component, Ecosystem, licences_in, npm_components, source_of

PACKAGE = LockedPackage(
    name="libx1",
    version="1.0-1+b2",
    architecture="amd64",
    sha256="0" * 64,
    size=1,
    archive=Archive.DEBIAN,
    path="pool/main/x/x.deb",
    closures=(Closure.PROXY,),
)
FORMAT = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ({}, ("libx1", "1.0-1+b2")),
        ({"Source": "x"}, ("x", "1.0-1+b2")),
        ({"Source": "x (1:1.0-1)"}, ("x", "1:1.0-1")),
    ],
)
def test_the_source_package_is_what_the_control_file_says_or_the_package_itself(
    control: dict[str, str], expected: tuple[str, str]
) -> None:
    assert source_of(control, PACKAGE) == expected


def test_licences_are_those_of_all_files() -> None:
    text = (
        f"{FORMAT}Upstream-Name: x\n\nFiles: *\nCopyright: A\nLicense: GPL-2+\n text of it\n\n"
        "Files: debian/*\nCopyright: B\nLicense: Expat\n\nLicense: BSD-3-clause\n not used by any file\n"
    )

    assert licences_in(text) == ["Expat", "GPL-2+"]


@pytest.mark.parametrize("text", ["", "This package was put together by hand.\n", f"{FORMAT}\nFiles: *\n"])
def test_a_copyright_file_for_people_only_names_no_licence(text: str) -> None:
    assert licences_in(text) == []


def test_npm_packages_are_those_installed_once_per_version() -> None:
    lock = json.dumps(
        {
            "packages": {
                "": {"name": "project"},
                "node_modules/a": {"version": "1", "integrity": "sha512-YQ==", "license": "MIT"},
                "node_modules/a/node_modules/@s/b": {"version": "2", "integrity": "sha512-Yg=="},
                "node_modules/@s/b": {"version": "2", "integrity": "sha512-Yg=="},
                "node_modules/left-out": {"version": "3", "optional": True},
            }
        }
    )

    assert npm_components(lock, ["a", "@s/b", "a/node_modules/@s/b"]) == (
        Component(Ecosystem.NPM, "@s/b", "2", "sha512-Yg==", ("@s/b", "a/node_modules/@s/b")),
        Component(Ecosystem.NPM, "a", "1", "sha512-YQ==", ("a",), licences=("MIT",)),
    )
