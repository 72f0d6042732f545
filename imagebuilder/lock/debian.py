"""Debian's archives as this machine reaches them: its mirrors, and apt kept apart from the machine's own state."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock.model import RELEASE, Archive
from imagebuilder.run import ProcessError, run

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
class Stanza:
    """What an archive index says of one package."""

    fields: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields[name]


def stanzas(text: str) -> Iterator[Stanza]:
    """Yield the stanzas of an index (deb822), continuation lines left out. Pure."""
    for block in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", block, re.MULTILINE))
        if fields:
            yield Stanza(fields)


def planned(output: str) -> tuple[tuple[str, str], ...]:
    """Return (name, version) of each package in what ``apt-get install --print-uris`` printed. Pure."""
    found = []
    for line in output.splitlines():
        if match := re.match(r"'[^']+' ([^_\s]+)_([^_\s]+)_[^_\s]+\.deb ", line):
            found.append((match[1], match[2].replace("%3a", ":")))
    return tuple(found)


def simulated(output: str, before: Mapping[str, str]) -> dict[str, str]:
    """Return the versions by name after what ``apt-get install --simulate`` printed, *before* being those now. Pure."""
    after = dict(before)
    for line in output.splitlines():
        if match := re.match(r"Inst ([^\s:]+)(?::\S+)? (?:\[[^\]]*\] )?\((\S+) ", line):
            after[match[1]] = match[2]
        elif match := re.match(r"Remv ([^\s:]+)", line):
            after.pop(match[1], None)
    return after


def snapshots(base: str, states: Sequence[int]) -> Iterator[dict[Archive, str]]:
    """Yield the archives as the snapshot archive *base* keeps them, for each of *states* (Unix seconds). Pure.

    A snapshot is taken some hours after a change, and named by when it was taken: the day after is looked at first.
    """
    for state in states:
        for later in (timedelta(days=1), timedelta()):
            taken = f"{datetime.fromtimestamp(state, UTC) + later:%Y%m%dT%H%M%SZ}"
            yield {archive: f"{base.rstrip('/')}/{archive}/{taken}" for archive in Archive}


REFUSALS = (
    # What apt says, and what that means, in the order in which one hides the other.
    (r"Release file for (\S+) is expired", "its Release file is no longer valid; it may be held back on purpose"),
    (r"Release file for (\S+) is not valid yet", "its Release file is from the future; is this machine's clock right?"),
    (r"(?:GPG error|OpenPGP signature verification failed): (\S+)", "it is not signed by Debian's archive keys"),
    (r"repository '(\S+) .*' (?:is not signed|does not have a Release file)", "it gives no signed Release file"),
    (r"Failed to fetch (\S+) +(?:Hash Sum mismatch|File has unexpected size)", "an index differs from the signed one"),
)


UNREACHED = re.compile(
    r"Failed to fetch (\S+)/dists/\S+ +((?:Could not|Unable to|Temporary failure|Connection|Cannot initiate).*)"
)


def refusal(output: str) -> str | None:
    """Return why a mirror can't be used, told by apt's *output*: it is unreachable, or not to be trusted. Pure.

    None when that is not what went wrong.
    """
    if found := UNREACHED.search(output):
        return f"the mirror {found[1]} can't be reached: {found[2].rstrip(': ')}"
    for pattern, meaning in REFUSALS:
        if found := re.search(pattern, output):
            return f"the mirror {found[1]} is refused: {meaning}"
    return None


@dataclass(frozen=True)
class Apt:
    """An apt whose settings, lists, status and cache are in a folder of ours; only proxies are the machine's."""

    folder: Path
    mirrors: Mapping[Archive, str]
    keyring: Path = KEYRING
    """Public keys by which the archives' Release files must be signed."""

    def sources(self) -> str:
        """Return its sources.list. Pure."""
        option = f"[arch=amd64 signed-by={self.keyring}]"
        return "".join(
            f"deb {option} {self.mirrors[archive]} {suite} main\n"
            for archive, suites in SUITES.items()
            for suite in suites
        )

    def prepare(self) -> None:
        """Write its settings; nothing of the machine's apt is touched."""
        if not self.keyring.exists():
            raise ImagebuilderError(f"{self.keyring} is missing", hint="apt install debian-archive-keyring")
        for name in ("lists/partial", "cache/archives/partial", "log", "offered"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "preferences").touch()
        (self.folder / "sources.list").write_text(self.sources())
        settings = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": self.folder / "preferences",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": self.folder,
            "Dir::State::status": self.folder / "status",
            "Dir::State::lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
            # Made anew each time: we change the status between two runs faster than apt would notice.
            "Dir::Cache::pkgcache": "",
            "Dir::Log": self.folder / "log",
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "APT::AutoRemove::RecommendsImportant": "false",
            "APT::AutoRemove::SuggestsImportant": "false",
            "APT::Protect-Kernels": "false",
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Check-Date": "true",
            "Acquire::Check-Valid-Until": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            # The folder is ours alone, so apt's own user could not write there.
            "APT::Sandbox::User": "root",
        }
        lines = [*_proxies(), *(f'{name} "{value}";' for name, value in settings.items())]
        (self.folder / "apt.conf").write_text("\n".join([*lines, 'APT::Architectures { "amd64"; };', ""]))

    def offer(self, index: str) -> None:
        """Let apt know packages that the archives no longer list: *index* is what they would list."""
        offered = self.folder / "offered"
        (offered / "Packages").write_text(index)
        # Trusted, as whoever offers something knows it by its hash.
        line = f"deb [arch=amd64 trusted=yes] copy:{offered} ./\n" if index else ""
        (self.folder / "sources.list").write_text(self.sources() + line)

    def keep(self, versions: Mapping[str, str]) -> None:
        """Let no package of *versions* (name to version) have another one."""
        stanzas = (f"Package: {n}\nPin: version {v}\nPin-Priority: 1001\n" for n, v in sorted(versions.items()))
        (self.folder / "preferences").write_text("\n".join(stanzas))

    def install(self, index: str, automatic: Iterable[str] = ()) -> None:
        """Let apt take the packages of *index* for installed, and *automatic* for those that nobody asked for."""
        (self.folder / "status").write_text(re.sub(r"(?m)^(Package: .*)$", r"\1\nStatus: install ok installed", index))
        states = (f"Package: {name}\nArchitecture: amd64\nAuto-Installed: 1\n" for name in automatic)
        (self.folder / "extended_states").write_text("\n".join(states))

    def run(self, *argv: str, timeout_s: float = 600) -> str:
        """Run an apt program with these settings and return what it printed."""
        return run(argv, env={"APT_CONFIG": str(self.folder / "apt.conf")}, timeout_s=timeout_s).text

    def update(self) -> None:
        """Fetch the indices; apt checks the signature chain InRelease -> Packages."""
        try:
            self.run("apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any")
        except ProcessError as error:
            if why := refusal(error.output):
                hint = f"try again later, or name another mirror by {' and '.join(MIRROR_VARIABLES.values())}"
                raise ImagebuilderError(why, hint=hint) from error
            raise

    def epoch(self) -> int:
        """Return the date (Unix seconds) of the newest index."""
        dates = []
        for path in (self.folder / "lists").glob("*InRelease"):
            text = path.read_text(errors="replace")
            if found := re.search(r"^Date: (.+)$", text, re.MULTILINE):
                dates.append(int(run(["date", "-u", "-d", found[1], "+%s"]).text))
        return max(dates)


def _proxies() -> list[str]:
    """Return the machine's apt settings that say how it reaches the network, and no other."""
    settings = run(["apt-config", "dump", "Acquire"]).text
    return re.findall(r"(?m)^Acquire::(?:http|https)::.*$", settings)
