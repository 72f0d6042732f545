"""The one name server of the world: a signed root zone that holds every name there is. Owns one knotd process."""

import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rdatatype

from imagebuilder.dns.records import ROOT_SERVERS, Record
from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import end, environment, run
from imagebuilder.tools import Tools
from imagebuilder.vm.addresses import FORMER_ROOT_SERVERS
from imagebuilder.vm.namespace import entered

READY_S = 20.0
"""Seconds that signing the zone may take."""


def root_zone(records: Iterable[Record]) -> str:
    """Return the text of the root zone with *records*. Pure."""
    lines = [". 86400 IN SOA a.root-servers.net. hostmaster.root-servers.net. 1 1800 900 604800 60"]
    for letter, (ipv4, ipv6) in ROOT_SERVERS.items():
        name = f"{letter}.root-servers.net."
        lines += [f". 518400 IN NS {name}", f"{name} 518400 IN A {ipv4}", f"{name} 518400 IN AAAA {ipv6}"]
    lines += [str(record) for record in records]
    return "\n".join(lines) + "\n"


def root_addresses() -> tuple[str, ...]:
    """Return every address that a resolver may look for a root server at. Pure."""
    current = [address for pair in ROOT_SERVERS.values() for address in pair]
    return (*current, *FORMER_ROOT_SERVERS)


def knot_configuration(folder: Path, listen: Sequence[str]) -> str:
    """Return knotd's configuration: one zone, signed at once with the one key there is. Pure."""
    return f"""\
server:
    rundir: {folder}
    listen: [{", ".join(f"{address}@53" for address in listen)}]
    udp-workers: 1
    tcp-workers: 2
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: {folder}
policy:
  - id: throw-away
    algorithm: ecdsap256sha256
    single-type-signing: on
template:
  - id: default
    storage: {folder}
zone:
  - domain: .
    file: root.zone
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
    dnssec-signing: on
    dnssec-policy: throw-away
"""


def make_zone_key(tools: Tools, folder: Path) -> None:
    """Put the root zone's key into *folder*, in knotd's own form."""
    configuration = folder / "knot.conf"
    configuration.write_text(knot_configuration(folder, ()))
    order = ["keymgr", "-c", str(configuration), ".", "generate", "algorithm=ecdsap256sha256", "ksk=yes", "zsk=yes"]
    run(tools.argv(order, write=[folder]), timeout_s=READY_S)
    configuration.unlink()


class NameServer:
    """knotd on the host *network*, reachable at *listen*."""

    def __init__(self, tools: Tools, folder: Path, network: str, listen: Sequence[str]) -> None:
        self._tools = tools
        self._folder = folder
        self._network = network
        self._listen = tuple(listen)
        self._process: subprocess.Popen[bytes] | None = None
        self.trust_anchor = ""
        """The zone's key as a zone file line; whoever trusts it can validate every name."""
        self._serving: tuple[tuple[Record, ...], Path | None] = ((), None)
        self._altered = False

    def start(self, records: Iterable[Record], *, keys: Path | None = None) -> None:
        """Serve *records*, and wait until they are signed, with the key in *keys* or with one of its own."""
        self._serving = (tuple(records), keys)
        self.trust_anchor = self._serve(*self._serving)

    def stop(self) -> None:
        """Switch the name server off."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def lie(self, false: Iterable[Record]) -> None:
        """Say *false* of these names and types, signed by a key that nobody should trust, until it is mended."""
        self._alter(false, None)

    def change(self, changed: Iterable[Record]) -> None:
        """Say *changed* of these names and types, signed as ever, until it is mended."""
        self._alter(changed, self._serving[1])

    def _alter(self, other: Iterable[Record], keys: Path | None) -> None:
        other = tuple(other)
        spoken_of = {(record.owner, record.type) for record in other}
        kept = (record for record in self._serving[0] if (record.owner, record.type) not in spoken_of)
        self.stop()
        self._altered = True
        self._serve((*kept, *other), keys)

    def go_down(self) -> None:
        """Answer nobody until it is mended."""
        self.stop()
        self._altered = True

    def mend(self) -> None:
        """Say the truth again."""
        if self._altered:
            self.stop()
            self._serve(*self._serving)
            self._altered = False

    def _serve(self, records: tuple[Record, ...], keys: Path | None) -> str:
        """Start afresh with *records* and return the key that they are signed with."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if keys is None:
            self._folder.mkdir(parents=True)
        else:
            shutil.copytree(keys, self._folder)
        (self._folder / "root.zone").write_text(root_zone(records))
        configuration = self._folder / "knot.conf"
        configuration.write_text(knot_configuration(self._folder, self._listen))
        log = self._folder / "knotd.txt"
        argv = self._tools.argv(["knotd", "-c", str(configuration)], network=True, write=[self._folder])
        with entered(self._network), log.open("ab") as messages:
            self._process = subprocess.Popen(
                argv, env=environment(), stdin=subprocess.DEVNULL, stdout=messages, stderr=messages
            )
        deadline = time.monotonic() + READY_S
        while not (anchor := self._key()):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise ImagebuilderError(f"the name server does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        return anchor

    def _key(self) -> str | None:
        query = dns.message.make_query(".", dns.rdatatype.DNSKEY, want_dnssec=True)
        try:
            with entered(self._network):
                answer = dns.query.tcp(query, self._listen[0], timeout=2)
        except (OSError, dns.exception.DNSException):
            return None
        keys = [key for rrset in answer.answer if rrset.rdtype == dns.rdatatype.DNSKEY for key in rrset]
        signed = any(rrset.rdtype == dns.rdatatype.RRSIG for rrset in answer.answer)
        if not keys or not signed:
            return None
        flags, protocol, algorithm, *key = keys[0].to_text().split()
        return f". 86400 IN DNSKEY {flags} {protocol} {algorithm} {''.join(key)}"
