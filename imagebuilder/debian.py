"""Debian's archives as this machine reaches them: its mirrors, and apt kept apart from the machine's own state."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock import RELEASE, Archive
from imagebuilder.run import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Where the package debian-archive-keyring puts the archives' public keys."""

SUITES = {Archive.DEBIAN: (RELEASE, f"{RELEASE}-updates"), Archive.SECURITY: (f"{RELEASE}-security",)}

MIRROR_VARIABLES = {
    Archive.DEBIAN: "IMAGEBUILDER_MIRROR",
    Archive.SECURITY: "IMAGEBUILDER_SECURITY_MIRROR",
}
"""Environment variables that name a mirror when the machine's apt names none, or another is wanted."""


def uris_in(sources: str) -> Iterator[str]:
    """Yield the archive URIs that the text of an apt sources file names, in either of its formats. Pure."""
    for line in sources.splitlines():
        if found := re.match(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s", line):
            yield found[1]
        elif found := re.match(r"URIs:\s*(.+)", line):
            yield from found[1].split()


def mirrors_in(uris: Iterator[str]) -> dict[Archive, str]:
    """Return the first URI per archive, told by its last path component. Pure."""
    found: dict[Archive, str] = {}
    for uri in uris:
        base = uri.rstrip("/")
        for archive in Archive:
            if base.endswith(f"/{archive}"):
                found.setdefault(archive, base)
    if Archive.DEBIAN in found:
        found.setdefault(Archive.SECURITY, found[Archive.DEBIAN].removesuffix("debian") + Archive.SECURITY)
    return found


def mirrors(folder: Path = Path("/etc/apt"), environment: Mapping[str, str] = os.environ) -> dict[Archive, str]:
    """Return the mirror of each archive, from the environment or this machine's apt settings."""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]
    files += sorted((folder / "sources.list.d").glob("*.sources"))
    found = mirrors_in(uri for file in files if file.is_file() for uri in uris_in(file.read_text()))
    for archive, variable in MIRROR_VARIABLES.items():
        if variable in environment:
            found[archive] = environment[variable].rstrip("/")
    if missing := [archive for archive in Archive if archive not in found]:
        raise ImagebuilderError(
            f"apt on this machine names no mirror of {' and '.join(missing)}",
            hint=f"name one: {MIRROR_VARIABLES[missing[0]]}=http://…/{missing[0]}",
        )
    return found


@dataclass(frozen=True)
class Apt:
    """An apt whose lists, status and cache are in a folder of ours; proxies and such are the machine's."""

    folder: Path
    mirrors: Mapping[Archive, str]

    def sources(self) -> str:
        """Return its sources.list. Pure."""
        option = f"[arch=amd64 signed-by={KEYRING}]"
        return "".join(
            f"deb {option} {self.mirrors[archive]} {suite} main\n"
            for archive, suites in SUITES.items()
            for suite in suites
        )

    def prepare(self) -> None:
        """Write its settings; nothing of the machine's apt is touched."""
        if not KEYRING.exists():
            raise ImagebuilderError(f"{KEYRING} is missing", hint="apt install debian-archive-keyring")
        for name in ("lists/partial", "cache/archives/partial", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text(self.sources())
        settings = {
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": self.folder,
            "Dir::State::status": self.folder / "status",
            "Dir::State::lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
            "Dir::Log": self.folder / "log",
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            # The folder is ours alone, so apt's own user could not write there.
            "APT::Sandbox::User": "root",
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        (self.folder / "apt.conf").write_text("\n".join([*lines, 'APT::Architectures { "amd64"; };', ""]))

    def run(self, *argv: str, timeout_s: float = 600) -> str:
        """Run an apt program with these settings and return what it printed."""
        return run(argv, env={"APT_CONFIG": str(self.folder / "apt.conf")}, timeout_s=timeout_s).text

    def update(self) -> None:
        """Fetch the indices; apt checks the signature chain InRelease -> Packages."""
        self.run("apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any")

    def epoch(self) -> int:
        """Return the date (Unix seconds) of the newest index."""
        dates = []
        for path in (self.folder / "lists").glob("*InRelease"):
            text = path.read_text(errors="replace")
            if found := re.search(r"^Date: (.+)$", text, re.MULTILINE):
                dates.append(int(run(["date", "-u", "-d", found[1], "+%s"]).text))
        return max(dates)
