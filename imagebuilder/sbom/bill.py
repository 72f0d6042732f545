"""The bill of materials of an image, as CycloneDX has it; its bytes depend on nothing but the image. Pure."""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component as Entry
from cyclonedx.model.component import ComponentType
from cyclonedx.model.impact_analysis import ImpactAnalysisAffectedStatus
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.model.vulnerability import (
    BomTarget,
    BomTargetVersionRange,
    Vulnerability,
    VulnerabilityRating,
    VulnerabilitySeverity,
)
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id, is_expression
from packageurl import PackageURL

from imagebuilder.lock.model import RELEASE
from imagebuilder.sbom.components import Component, Ecosystem
from imagebuilder.sbom.vulnerabilities import Finding, Urgency
from imagebuilder.topology import Role

PROPERTY = "imagebuilder:"
"""Begins the names of our own properties, as CycloneDX asks (property taxonomy)."""

# Debian's short names differ from SPDX's (copyright-format 1.0 section 7.1).
GNU = re.compile(r"(GPL|LGPL|AGPL|GFDL)-(\d)(?:\.(\d))?(\+?)")
ALIASES = {"expat": "MIT", "apache-2": "Apache-2.0", "psf-2": "PSF-2.0", "mpl-2": "MPL-2.0"}

SEVERITIES = {
    Urgency.UNKNOWN: VulnerabilitySeverity.UNKNOWN,
    Urgency.LOW: VulnerabilitySeverity.LOW,
    Urgency.MEDIUM: VulnerabilitySeverity.MEDIUM,
    Urgency.HIGH: VulnerabilitySeverity.HIGH,
}


@dataclass(frozen=True)
class Subject:
    """The image that the bill is of."""

    role: Role
    sha256: str
    generation: int
    epoch: int
    """Date of everything in it, in Unix seconds; the bill has it too."""
    seed: UUID


def bill(subject: Subject, components: Iterable[Component], findings: Iterable[Finding] = ()) -> str:
    """Return the bill of materials as JSON."""
    image = Entry(
        type=ComponentType.OPERATING_SYSTEM,
        name=f"imagebuilder-{subject.role}",
        version=str(subject.generation),
        bom_ref=f"image:{subject.sha256}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=subject.sha256)],
    )
    entries = [_entry(component) for component in components]
    bom = Bom(
        serial_number=uuid5(subject.seed, f"bill of {subject.sha256}"),
        metadata=BomMetaData(timestamp=datetime.fromtimestamp(subject.epoch, UTC), component=image),
        components=entries,
        vulnerabilities=[_vulnerability(finding) for finding in findings],
    )
    bom.register_dependency(image, entries)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _entry(component: Component) -> Entry:
    url = purl(component)
    where = "path" if component.ecosystem is Ecosystem.NPM else "closure"
    properties = {where: ",".join(component.purposes)}
    if component.source:
        properties |= {"source": component.source, "source-version": component.source_version}
    return Entry(
        type=ComponentType.LIBRARY,
        name=component.name,
        version=component.version,
        bom_ref=str(url),
        purl=url,
        hashes=[_hash(component.digest)] if component.digest else [],
        licenses=licences(component.licences),
        properties=[Property(name=PROPERTY + name, value=value) for name, value in sorted(properties.items())],
    )


def purl(component: Component) -> PackageURL:
    """Return the package URL of *component* (package-url/purl-spec, types deb and npm)."""
    if component.ecosystem is Ecosystem.NPM:
        scope, _, name = component.name.rpartition("/")
        return PackageURL("npm", scope or None, name, component.version)
    qualifiers = {"arch": component.architecture, "distro": RELEASE}
    return PackageURL("deb", "debian", component.name, component.version, qualifiers)


def _hash(digest: str) -> HashType:
    """Return the hash that *digest* is: a SHA-256 in hexadecimal, or npm's ``sha512-BASE64``."""
    kind, _, encoded = digest.rpartition("-")
    if not kind:
        return HashType(alg=HashAlgorithm.SHA_256, content=digest)
    algorithm = {"sha1": HashAlgorithm.SHA_1, "sha512": HashAlgorithm.SHA_512}[kind]
    return HashType(alg=algorithm, content=base64.b64decode(encoded).hex())


def licences(names: Iterable[str]) -> list[License]:
    """Return the licences of those *names*, by their SPDX id as far as they have one."""
    known = sorted({spdx_id(name) or name for name in names})
    if len(known) == 1 and not fixup_id(known[0]) and is_expression(known[0]):
        return [LicenseExpression(known[0])]
    return [DisjunctiveLicense(id=name) if fixup_id(name) == name else DisjunctiveLicense(name=name) for name in known]


def spdx_id(name: str) -> str | None:
    """Return the SPDX id of a licence as Debian or npm names it, if it has one."""
    if found := GNU.fullmatch(name):
        family, major, minor, later = found.groups()
        return fixup_id(f"{family}-{major}.{minor or 0}-{'or-later' if later else 'only'}")
    return fixup_id(ALIASES.get(name.lower(), name))


def _vulnerability(finding: Finding) -> Vulnerability:
    versions = [BomTargetVersionRange(version=finding.version, status=ImpactAnalysisAffectedStatus.AFFECTED)]
    return Vulnerability(
        id=finding.name,
        bom_ref=f"{finding.name}:{finding.source}",
        description=finding.description,
        ratings=[VulnerabilityRating(severity=SEVERITIES[finding.urgency])],
        recommendation=f"update {finding.source} to {finding.fixed}" if finding.fixed else None,
        affects=[BomTarget(ref=str(purl(component)), versions=versions) for component in finding.components],
    )
