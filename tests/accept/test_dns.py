"""`dns`, against real name servers in a network of their own: a root, and below it the operator's zones.

```
 127.0.0.1  the root zone, with delegations and the reverse zones
 127.0.0.2, 127.0.0.3  the zones that `dns` prints, pasted as they are
```
"""

import contextlib
import functools
import io
import json
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from imagebuilder.cli import main
from imagebuilder.init import init
from imagebuilder.run import environment, run
from imagebuilder.tools import Tools
from imagebuilder.vm.namespace import NETWORKS, entered, inside, new_network

pytestmark = pytest.mark.accept

SMALL = Path(__file__).parents[1] / "topologies/small.toml"
PLACE = Path("/run/dns")
ROOT, FIRST, SECOND = "127.0.0.1", "127.0.0.2", "127.0.0.3"
IDN = "xn--bcher-kva.example"
SOA = "@ 3600 IN SOA ns1 hostmaster 1 1800 900 604800 60\n@ 3600 IN NS ns1\n@ 3600 IN NS ns2\n"
SOA += f"ns1 3600 IN A {FIRST}\nns2 3600 IN A {SECOND}\n"


@dataclass
class Place:
    """Name servers, and the operator's files; lives inside a namespace."""

    tools: Tools
    topology: Path

    def dns(self, *options: str) -> tuple[int, str, str]:
        """Return exit status, standard output and prose of the command."""
        out, err = io.StringIO(), io.StringIO()
        with entered("dns"), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["dns", "-t", str(self.topology), *options])
        return status, out.getvalue(), err.getvalue()

    def check(self, *options: str) -> tuple[int, str, str]:
        """Check from the root on."""
        return self.dns("--check", "--root", ROOT, *options)

    @contextlib.contextmanager
    def serving(self, change: Callable[[str], str] = lambda text: text, *, second: bool = True) -> Iterator[None]:
        """Publish what `dns` prints, first changed by *change*; the second server always has it as printed."""
        pasted = zones_of(self.dns()[1])
        reverse = "".join(line[2:] + "\n" for line in self.dns()[1].splitlines() if "\tPTR\t" in line)
        root = ". 3600 IN SOA a.root. root. 1 1800 900 604800 60\n. 3600 IN NS a.root.\n"
        root += f"a.root. 3600 IN A {ROOT}\n{change(reverse)}"
        for origin in pasted:
            for name, address in ((f"ns1.{origin}.", FIRST), (f"ns2.{origin}.", SECOND)):
                root += f"{origin}. 3600 IN NS {name}\n{name} 3600 IN A {address}\n"
        changed = {origin: change(text) for origin, text in pasted.items()}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._knotd(ROOT, {".": root}))
            stack.enter_context(self._knotd(FIRST, changed))
            if second:
                stack.enter_context(self._knotd(SECOND, pasted if change(reverse) == reverse else changed))
            yield

    @contextlib.contextmanager
    def _knotd(self, address: str, zones: dict[str, str]) -> Iterator[None]:
        folder = PLACE / address
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        lines = [
            f"server:\n    rundir: {folder}\n    listen: {address}@53",
            f"database:\n    storage: {folder}",
            "zone:",
        ]
        for number, (origin, text) in enumerate(zones.items()):
            (folder / f"{number}.zone").write_text(text)
            lines.append(f"  - domain: {origin}\n    storage: {folder}\n    file: {number}.zone\n    zonefile-sync: -1")
        (folder / "knot.conf").write_text("\n".join(lines) + "\n")
        checked = self.tools.argv(["knotc", "-c", str(folder / "knot.conf"), "zone-check"], read=[folder])
        run(checked)
        argv = self.tools.argv(["knotd", "-c", str(folder / "knot.conf")], network=True, write=[folder])
        with entered("dns"), (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def zones_of(text: str) -> dict[str, str]:
    """Return the zones in what `dns` prints, by origin, each with what its provider adds."""
    zones = {}
    for part in text.split("$ORIGIN ")[1:]:
        origin, _, rest = part.partition("\n")
        body = rest.partition("\n; ---")[0]
        zones[origin.rstrip(".")] = f"$ORIGIN {origin}\n{SOA}{body}\n"
    return zones


def two_domains() -> dict[str, Any]:
    """Return the small topology with a second, internationalised mail domain."""
    document = tomllib.loads(SMALL.read_text())
    document["mail"]["domains"].append({"name": "bücher.example", "dkim_next_selector": "next"})
    return document


def told(story: Callable[[Place], None]) -> Callable[[Tools, Path], None]:
    """Make a test of *story*, which gets a network and files of its own."""

    def play(tools: Tools, folder: Path) -> None:
        new_network("dns")
        PLACE.mkdir()
        with entered("dns"):
            run(tools.argv(["ip", "link", "set", "lo", "up"], network=True, read=[NETWORKS]))
        topology = folder / "topology.toml"
        topology.write_text(tomli_w.dumps(two_domains()))
        init(topology)
        story(Place(tools, topology))

    def test(tools: Tools, tmp_path: Path) -> None:
        inside(functools.partial(play, tools, tmp_path))

    test.__name__, test.__doc__, test.__module__ = story.__name__, story.__doc__, story.__module__
    return test


@told
def test_the_printed_zones_are_taken_by_a_name_server_and_found_good(place: Place) -> None:
    with place.serving():
        status, lines, prose = place.check()

    assert status == 0, prose
    assert lines == ""
    assert f"good     mta-sts.{IDN}. CNAME" in prose
    assert f"good     next._domainkey.{IDN}. TXT" in prose
    assert "advice: sign the zone" in prose


@told
def test_a_missing_required_record_is_printed_exactly_and_fails(place: Place) -> None:
    wanted = next(line for line in place.dns()[1].splitlines() if line.startswith("dkim._domainkey.example.org."))
    with place.serving(lambda text: text.replace(f"{wanted}\n", "")):
        status, lines, prose = place.check()

    assert status == 1
    assert wanted in lines.splitlines()
    assert "missing  dkim._domainkey.example.org. TXT" in prose
    assert "other servers differ" in lines


@told
def test_a_missing_recommended_record_is_printed_and_passes(place: Place) -> None:
    def change(text: str) -> str:
        return "".join(line + "\n" for line in text.splitlines() if not line.startswith("_imaps._tcp.example.org."))

    with place.serving(change):
        status, lines, _ = place.check()

    assert status == 0
    assert lines.startswith("; recommended\n")
    assert "_imaps._tcp.example.org.\t3600\tIN\tSRV\t0 1 993 mail.example.org." in lines


@told
def test_a_reverse_record_of_the_provider_is_found_wrong(place: Place) -> None:
    def change(text: str) -> str:
        return text.replace("in-addr.arpa.\t3600\tIN\tPTR\tmail.", "in-addr.arpa.\t3600\tIN\tPTR\tvps-17.")

    with place.serving(change):
        status, lines, _ = place.check()

    assert status == 1
    assert "there is 'vps-17.example.org.'" in lines


@told
def test_an_authority_that_the_domain_forbids_is_a_failure(place: Place) -> None:
    def change(text: str) -> str:
        kept = "".join(line + "\n" for line in text.splitlines() if "\tCAA\t" not in line)
        return kept + '@ 3600 IN CAA 0 issue "other.example"\n' if "$ORIGIN" in kept else kept

    with place.serving(change):
        status, lines, _ = place.check()

    assert status == 1
    assert "example.org. has '0 issue \"other.example\"', which forbids our certificates" in lines


@told
def test_a_server_that_is_away_is_passed_over_and_none_at_all_is_a_failure(place: Place) -> None:
    with place.serving(second=False):
        assert place.check()[0] == 0

    status, lines, prose = place.dns("--check", "--server", SECOND)
    assert status == 1
    assert "unknown  mail.example.org. A: no responsible name server answers" in prose
    assert "mail.example.org.\t3600\tIN\tA\t198.18.0.10" in lines


@told
def test_machines_get_the_same_as_json(place: Place) -> None:
    with place.serving():
        rows = json.loads(place.check("--json")[1])

    assert {row["state"] for row in rows} == {"good"}
    assert {row["zone"] for row in rows} == {"example.org", IDN, None}
    assert all(row["why"] for row in rows)
