"""The certificate authority of the world: pebble, behind a front that has the directory's real name. Owns both."""

import datetime
import hashlib
import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import end, environment
from imagebuilder.tools import Tools
from imagebuilder.vm.namespace import entered

READY_S = 20.0
"""Seconds that pebble may take to answer."""
ISSUING, MANAGEMENT = 14000, 15000
"""pebble's ports, on the loopback address of its network."""
VALID_S = 90 * 24 * 3600
"""Lifetime of its certificates, as the large authorities have it."""
UNAVAILABLE = 503
CHAIN = "application/pem-certificate-chain"
REHEARSALS = {"acme-v02.api.letsencrypt.org": "acme-staging-v02.api.letsencrypt.org"}
"""Where Caddy tries again first after a failure, by the host of the directory proper (certmagic, TestCA)."""


@dataclass(frozen=True)
class Issuer:
    """A root certificate with its key: what everybody in the world trusts."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> "Issuer":
        """Return a fresh one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The world's own root")])
        identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = _builder(name, name, key, days=3650)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=True).add_extension(identity, critical=False)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def read(cls, folder: Path) -> "Issuer":
        """Return the one that `write` put into *folder*."""
        key = serialization.load_pem_private_key((folder / "root.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ImagebuilderError(f"the key of the world's authority in {folder} is damaged")
        return cls(key, x509.load_pem_x509_certificate((folder / "root.crt").read_bytes()))

    def write(self, folder: Path) -> None:
        """Put it into *folder*, which is its owner's alone."""
        (folder / "root.key").write_bytes(_private_pem(self.key))
        (folder / "root.crt").write_text(self.pem)

    def vouch(self, root: x509.Certificate) -> str:
        """Return a certificate by which whoever trusts this issuer trusts *root*, too; PEM."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(root.subject)
            .issuer_name(self.certificate.subject)
            .public_key(root.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(root.not_valid_before_utc)
            .not_valid_after(self.certificate.not_valid_after_utc)
        )
        for extension in root.extensions:
            if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
                builder = builder.add_extension(extension.value, critical=extension.critical)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        cross = builder.add_extension(issuer, critical=False).sign(self.key, hashes.SHA256())
        return cross.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def pem(self) -> str:
        """The root certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def certify(self, names: Sequence[str], *, days: int = 90) -> bytes:
        """Return a key and a certificate for *names*, hosts or addresses, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        builder = _builder(subject, self.certificate.subject, key, days=days)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        for extension in (
            x509.SubjectAlternativeName([_general_name(name) for name in names]),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
            issuer,
        ):
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return _private_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def tlsa(pem: bytes) -> str:
    """Return the TLSA record, as in a zone file, that names the key of the first certificate in *pem*. Pure."""
    public = x509.load_pem_x509_certificates(pem)[0].public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    # of the server itself, its key, by SHA-256 (RFC 7672 section 3.1.1)
    return f"3 1 1 {hashlib.sha256(der).hexdigest()}"


def directory_hosts(directory: str) -> tuple[str, ...]:
    """Return the names that have to lead to the authority of *directory*. Pure."""
    host = urlsplit(directory).hostname or ""
    return (host, *([REHEARSALS[host]] if host in REHEARSALS else []))


class Authority:
    """An ACME server on the host *network* that is reached at *directory*, a URL whose host leads to *address*."""

    def __init__(
        self, tools: Tools, issuer: Issuer, folder: Path, network: str, address: str, directory: str, resolver: str
    ) -> None:
        self._tools = tools
        self._issuer = issuer
        self._folder = folder
        self._network = network
        self._address = address
        self._resolver = resolver
        where = urlsplit(directory)
        self._port, self._path = where.port or 443, where.path
        self.hosts = directory_hosts(directory)
        """Names that lead here."""
        self._process: subprocess.Popen[bytes] | None = None
        self._front: ThreadingHTTPServer | None = None
        self._voucher = ""
        self.refuses: str | None = None
        """When set, the detail of the error that every question is answered with."""
        self.asked = 0
        """How many questions there were."""

    def start(self, *, valid_s: int = VALID_S) -> None:
        """Start the server, whose certificates live for *valid_s* seconds, and wait until it answers.

        One that ran before is ended; with it go the accounts that it knew.
        """
        self.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        both = self._folder / "own.pem"
        both.write_bytes(self._issuer.certify([*self.hosts, "localhost", "127.0.0.1"]))
        settings = {
            "listenAddress": f"127.0.0.1:{ISSUING}", "managementListenAddress": f"127.0.0.1:{MANAGEMENT}",
            "certificate": str(both), "privateKey": str(both), "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
            "externalAccountBindingRequired": False, "certificateValidityPeriod": valid_s,
        }  # fmt: skip
        configuration = self._folder / "pebble.json"
        configuration.write_text(json.dumps({"pebble": settings}))
        # no invented delays and no invented errors: a scenario makes its own
        switches = [("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0"), ("PEBBLE_AUTHZREUSE", "0")]
        argv = self._tools.argv(
            ["pebble", "-config", str(configuration), "-dnsserver", f"{self._resolver}:53"],
            network=True, read=[self._folder], setenv=switches,
        )  # fmt: skip
        log = self._folder / "pebble.txt"
        with entered(self._network), log.open("ab") as messages:
            self._process = subprocess.Popen(
                argv, env=environment(), stdin=subprocess.DEVNULL, stdout=messages, stderr=messages
            )
        deadline = time.monotonic() + READY_S
        while not (root := self._root()):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise ImagebuilderError(f"pebble does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        # pebble makes another root at each start; machines that are kept from run to run trust the world's own
        self._voucher = self._issuer.vouch(x509.load_pem_x509_certificate(root.encode()))
        self.open()

    def stop(self) -> None:
        """End both."""
        self.close()
        if self._process is not None:
            end(self._process)
            self._process = None

    def close(self) -> None:
        """Take no more connections, as an authority that is down; `open` ends it."""
        if self._front is not None:
            self._front.shutdown()
            self._front.server_close()
            self._front = None

    def open(self) -> None:
        """Take connections."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "own.pem")
        with entered(self._network):
            front = ThreadingHTTPServer((self._address, self._port), self._handler())
        front.daemon_threads = True
        front.socket = context.wrap_socket(front.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._front = front

    def refuse(self, detail: str) -> None:
        """Answer every question with an error whose *detail* this is; `mend` ends it."""
        self.refuses = detail

    def mend(self) -> None:
        """Answer again, and truthfully."""
        self.refuses = None
        if self._front is None:
            self.open()

    def log(self) -> str:
        """Return what pebble said."""
        path = self._folder / "pebble.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def _root(self) -> str | None:
        try:
            with self._pebble(MANAGEMENT) as connection:
                connection.request("GET", "/roots/0")
                return connection.getresponse().read().decode()
        except OSError:
            return None

    def _pebble(self, port: int) -> "_Connection":
        return _Connection(self._network, port, self._issuer.pem)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        authority = self

        class Front(BaseHTTPRequestHandler):
            """Passes everything on, with pebble's place of the directory in place of ours."""

            protocol_version = "HTTP/1.1"
            timeout = 30

            def answer(self) -> None:
                authority.asked += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if authority.refuses is not None:
                    problem = {"type": "urn:ietf:params:acme:error:serverInternal", "detail": authority.refuses}
                    kind = [("Content-Type", "application/problem+json")]
                    return self.reply(UNAVAILABLE, kind, json.dumps(problem).encode())
                path = "/dir" if self.path == authority._path else self.path
                with authority._pebble(ISSUING) as connection:
                    connection.request(self.command, path, body, dict(self.headers))
                    response = connection.getresponse()
                    content = response.read()
                # Caddy 2.6 can't read a date there, and the large authorities send seconds
                dropped = {"retry-after", "content-length", "transfer-encoding", "connection"}
                kept = [(name, value) for name, value in response.getheaders() if name.lower() not in dropped]
                if response.getheader("Content-Type", "").startswith(CHAIN):
                    content += authority._voucher.encode()
                return self.reply(response.status, kept, content)

            do_GET = do_HEAD = do_POST = answer  # noqa: N815 (http.server's names)

            def reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:  # noqa: ANN401
                """Say nothing: pebble keeps a log."""

        return Front


class _Connection(http.client.HTTPSConnection):
    """A connection to pebble, in whose network this thread is while it is made."""

    def __init__(self, network: str, port: int, root: str) -> None:
        super().__init__("127.0.0.1", port, timeout=30, context=ssl.create_default_context(cadata=root))
        self._network = network

    def __enter__(self) -> "_Connection":
        with entered(self._network):
            self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
