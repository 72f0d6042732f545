import base64
import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from imagebuilder.sbom.bill import Subject, bill, purl, spdx_id
from imagebuilder.sbom.components import Component, Ecosystem
from imagebuilder.sbom.vulnerabilities import findings, parse
from imagebuilder.topology import Role

SUBJECT = Subject(Role.PROXY, "a" * 64, 3, 1_700_000_000, UUID(int=7))
CURL = Component(
    Ecosystem.DEBIAN,
    "libcurl4t64",
    "8.14.1-2+b1",
    "b" * 64,
    ("proxy", "initrd"),
    architecture="amd64",
    source="curl",
    source_version="8.14.1-2",
    licences=("curl", "GPL-2+", "BSD-4-Clause-UC"),
)
REDIS = Component(
    Ecosystem.NPM,
    "@redis/client",
    "6.2.1",
    f"sha512-{base64.b64encode(bytes(64)).decode()}",
    ("@redis/client",),
    licences=("MIT",),
)
DATA = "VERSION 1\nCVE-2026-1,,Overflow, in URLs\n\ncurl,0, HRF,8.15.0-1,8.14.1-2+deb13u1\n\n\n"


def told(*components: Component) -> dict[str, Any]:
    text = bill(SUBJECT, components, findings(components, parse(DATA, source="x")))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document: dict[str, Any] = json.loads(text)
    return document


def test_a_bill_names_every_component_with_version_licence_hash_and_source() -> None:
    curl, redis = sorted(told(CURL, REDIS)["components"], key=lambda entry: str(entry["purl"]))

    assert (curl["name"], curl["version"]) == ("libcurl4t64", "8.14.1-2+b1")
    assert curl["purl"] == "pkg:deb/debian/libcurl4t64@8.14.1-2%2Bb1?arch=amd64&distro=trixie"
    assert curl["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    assert {p["name"]: p["value"] for p in curl["properties"]} == {
        "imagebuilder:closure": "proxy,initrd",
        "imagebuilder:source": "curl",
        "imagebuilder:source-version": "8.14.1-2",
    }
    assert sorted(entry["license"].get("id", "") for entry in curl["licenses"]) == [
        "BSD-4-Clause-UC",
        "GPL-2.0-or-later",
        "curl",
    ]
    assert redis["purl"] == "pkg:npm/%40redis/client@6.2.1"
    assert redis["hashes"] == [{"alg": "SHA-512", "content": "00" * 64}]


def test_the_bytes_depend_on_nothing_but_the_image() -> None:
    first = bill(SUBJECT, [CURL, REDIS])

    assert bill(SUBJECT, [REDIS, CURL]) == first
    assert json.loads(first)["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert (
        json.loads(bill(replace(SUBJECT, sha256="c" * 64), [CURL]))["serialNumber"] != json.loads(first)["serialNumber"]
    )


def test_vulnerabilities_point_at_their_components_and_name_the_fix() -> None:
    (threat,) = told(CURL, REDIS)["vulnerabilities"]

    assert (threat["id"], threat["ratings"]) == ("CVE-2026-1", [{"severity": "high"}])
    assert threat["recommendation"] == "update curl to 8.14.1-2+deb13u1"
    assert [target["ref"] for target in threat["affects"]] == [str(purl(CURL))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3+", "GPL-3.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("AGPL-3", "AGPL-3.0-only"),
        ("GFDL-1.3+", "GFDL-1.3-or-later"),
        ("Expat", "MIT"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("zlib", "Zlib"),
        ("public-domain", None),
        ("GPL-2+ with OpenSSL exception", None),
    ],
)
def test_debian_names_of_licences_become_spdx_ids_where_there_is_one(name: str, expected: str | None) -> None:
    assert spdx_id(name) == expected


def test_a_licence_expression_of_npm_stays_one() -> None:
    (entry,) = told(replace(REDIS, licences=("(MIT OR Apache-2.0)",)))["components"]

    assert entry["licenses"] == [{"expression": "(MIT OR Apache-2.0)"}]
