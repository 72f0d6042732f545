"""The certificate of each host: self-signed at first boot, then the authority's. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role, Topology
from imagebuilder.topology.rules_mail import SERVICE_LABELS

PUBLIC_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
PRIVATE_ROOT = "/etc/ssl/acme-root.pem"
ACME_STATE = "/var/lib/acme"
"""Where the client keeps account, keys and certificates."""


@dataclass(frozen=True)
class CertificateValues(Values):
    """What overlays/certificate may refer to."""

    names: tuple[str, ...]
    """Names in the first certificate, the host's principal one first."""
    key: str
    """Where the key is that goes with the authority's certificate."""
    chain: str
    """Where that certificate is, with those above it."""
    reloaded: tuple[str, ...]
    """Units that have to be told of a new certificate; the others see it by themselves."""
    private_root: str
    """The root certificate of a private authority, PEM; or empty."""


def public_names(topology: Topology) -> tuple[str, ...]:
    """Return the names under which the Internet knows the proxy, the mail host's first."""
    web = (f"{label}.{domain.name}" for domain in topology.mail.domains for label in SERVICE_LABELS)
    return tuple(dict.fromkeys((topology.proxy.hostname, *web)))


def authority_roots(topology: Topology) -> str:
    """Return the file with the roots that vouch for the ACME directory."""
    return PRIVATE_ROOT if topology.acme.root_certificates else PUBLIC_ROOTS


def caddy_folder(topology: Topology) -> str:
    """Return where Caddy keeps the mail host's key and certificate.

    Its folder of an authority is the directory's URL without the scheme, all slashes and colons as hyphens
    (certmagic, issuerKey and StorageKeys.Safe).
    """
    issuer = topology.acme.directory.removeprefix("https://").rstrip("/").replace("/", "-").replace(":", "-").lower()
    return f"/var/lib/caddy/data/caddy/certificates/{issuer}/{topology.proxy.hostname}"


def certificate_values(site: Site) -> CertificateValues:
    """Return the values of the certificate: users reach the client under the mail host's name, and no other."""
    topology = site.topology
    names, is_proxy = public_names(topology), site.role is Role.PROXY
    folder = caddy_folder(topology) if is_proxy else f"{ACME_STATE}/certificates"
    return CertificateValues(
        names=names if is_proxy else names[:1],
        key=f"{folder}/{names[0]}.key",
        chain=f"{folder}/{names[0]}.crt",
        # Haraka looks at each connection
        reloaded=() if is_proxy else ("postfix.service", "dovecot.service"),
        private_root=topology.acme.root_certificates,
    )


SERVICE = Service(
    name="certificate",
    roles=(Role.PROXY, Role.CLIENT),
    values=certificate_values,
    units=("first-certificate.service", "new-certificate.path", "new-certificate.service"),
)
