"""The certificate that each host makes itself at first boot. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role, Topology
from imagebuilder.topology.rules_mail import SERVICE_LABELS


@dataclass(frozen=True)
class CertificateValues(Values):
    """What overlays/certificate may refer to."""

    names: tuple[str, ...]
    """Names in the certificate, the host's principal one first."""


def public_names(topology: Topology) -> tuple[str, ...]:
    """Return the names under which the Internet knows the proxy, the mail host's first."""
    web = (f"{label}.{domain.name}" for domain in topology.mail.domains for label in SERVICE_LABELS)
    return tuple(dict.fromkeys((topology.proxy.hostname, *web)))


def certificate_values(site: Site) -> CertificateValues:
    """Return the values of the first certificate: users reach the client under the mail host's name, and no other."""
    names = public_names(site.topology)
    return CertificateValues(names=names if site.role is Role.PROXY else names[:1])


SERVICE = Service(
    name="certificate",
    roles=(Role.PROXY, Role.CLIENT),
    values=certificate_values,
    units=("first-certificate.service",),
)
