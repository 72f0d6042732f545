"""A small archive of Debian packages, signed by a throw-away key and served on the loopback interface."""

import contextlib
import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from imagebuilder.lock.debian import SUITES, Apt
from imagebuilder.lock.model import Archive


@dataclass(frozen=True)
class Deb:
    """A package to be made."""

    name: str
    version: str
    depends: str = ""
    archive: Archive = Archive.DEBIAN
    essential: bool = False

    @property
    def path(self) -> str:
        below = "pool/updates/main" if self.archive is Archive.SECURITY else "pool/main"
        return f"{below}/{self.name}_{self.version.replace(':', '%3a')}_amd64.deb"


@dataclass
class SignedArchive:
    """Both archives below one folder, as their mirrors have them."""

    folder: Path
    url: str = ""
    debs: list[Deb] = field(default_factory=list)

    @property
    def keyring(self) -> Path:
        return self.folder / "keyring.gpg"

    @property
    def mirrors(self) -> dict[Archive, str]:
        return {archive: f"{self.url}/{archive}" for archive in Archive}

    def apt(self, folder: Path) -> Apt:
        return Apt(folder, self.mirrors, keyring=self.keyring)

    def file(self, deb: Deb) -> Path:
        return self.folder / deb.archive / deb.path

    def index(self, suite: str) -> Path:
        archive = Archive.SECURITY if suite.endswith("-security") else Archive.DEBIAN
        return self.folder / archive / "dists" / suite

    def publish(self, debs: Sequence[Deb], *, valid_days: float = 7, signed: bool = True) -> None:
        """List just *debs*, whose files are made if need be; what was published before keeps its files."""
        self.debs = list(debs)
        for deb in debs:
            self._make(deb)
        for archive, suites in SUITES.items():
            for suite in suites:
                here = [deb for deb in debs if deb.archive is archive and suite in (suites[0],)]
                self._write_suite(suite, here, valid_days=valid_days, signed=signed)

    def make_key(self) -> None:
        home = self.folder / "gpg"
        home.mkdir(mode=0o700, parents=True)
        self._gpg("--quick-generate-key", "--passphrase", "", "archive@example.org", "ed25519", "sign", "never")
        self.keyring.write_bytes(self._gpg("--export"))

    def _gpg(self, *argv: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.folder / "gpg"), "--batch", "--quiet", *argv]
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout

    def stop_agent(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.folder / "gpg"), "--kill", "all"], check=True)

    def _make(self, deb: Deb) -> None:
        target = self.file(deb)
        if target.exists():
            return
        tree = self.folder / "trees" / f"{deb.name}_{deb.version}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(_control(deb))
        (tree / f"usr/share/{deb.name}").mkdir(parents=True)
        (tree / f"usr/share/{deb.name}/version").write_text(deb.version)
        target.parent.mkdir(parents=True, exist_ok=True)
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(target)]
        subprocess.run(command, check=True, capture_output=True)

    def _write_suite(self, suite: str, debs: Sequence[Deb], *, valid_days: float, signed: bool) -> None:
        folder = self.index(suite)
        packages = folder / "main/binary-amd64/Packages"
        packages.parent.mkdir(parents=True, exist_ok=True)
        packages.write_text("\n".join(self._stanza(deb) for deb in debs))
        now, content = datetime.now(UTC), packages.read_bytes()
        until = now + timedelta(days=valid_days)
        release = (
            f"Origin: Debian\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
            f"Date: {min(now, until - timedelta(minutes=1)):%a, %d %b %Y %H:%M:%S} UTC\n"
            f"Valid-Until: {until:%a, %d %b %Y %H:%M:%S} UTC\n"
            f"SHA256:\n {hashlib.sha256(content).hexdigest()} {len(content)} main/binary-amd64/Packages\n"
        ).encode()
        for name in ("InRelease", "Release"):
            (folder / name).unlink(missing_ok=True)
        if signed:
            (folder / "InRelease").write_bytes(self._gpg("--clearsign", stdin=release))
        else:
            (folder / "Release").write_bytes(release)

    def _stanza(self, deb: Deb) -> str:
        content = self.file(deb).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return f"{_control(deb)}Filename: {deb.path}\nSize: {len(content)}\nSHA256: {digest}\n"


def _control(deb: Deb) -> str:
    return (
        f"Package: {deb.name}\nVersion: {deb.version}\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\n"
        + (f"Depends: {deb.depends}\n" if deb.depends else "")
        + ("Essential: yes\n" if deb.essential else "")
        + f"Description: {deb.name} for a test\n"
    )


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve *folder* on the loopback interface; give its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def signed_archive(folder: Path) -> Iterator[SignedArchive]:
    """Give an archive in *folder*, served, that has no package yet."""
    archive = SignedArchive(folder)
    archive.make_key()
    try:
        with served(folder) as url:
            archive.url = url
            yield archive
    finally:
        archive.stop_agent()
