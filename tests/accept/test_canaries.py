"""No secret is seen where others can look: arguments, environments, the store, logs, temporary files, core dumps."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagebuilder.build.toolchain import build_tools
from imagebuilder.commands.sources import the_store
from imagebuilder.init import init
from imagebuilder.plan import Plan
from imagebuilder.secrets.keys import Secrets
from imagebuilder.secrets.vault import named, read_secrets
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.vm.canaries import piece
from tests.unit.images import SECRETS
from tests.unit.keys import ssh_pair

pytestmark = pytest.mark.accept

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"

PROVISION = """
import sys
from pathlib import Path
from imagebuilder import run
from imagebuilder.shipping.flash import flash
from imagebuilder.shipping.formats import Format, shaped
from imagebuilder.shipping.objects import put
from imagebuilder.shipping.provision import Provisioned, secrets_filesystem
from imagebuilder.secrets.keys import credentials
from imagebuilder.tools import Tools
from imagebuilder.topology import Role, load_topology
from imagebuilder.secrets.vault import read_secrets
from imagebuilder.vm.disks import overlay, provision, raw
from imagebuilder.vm.canaries import piece
from tests.unit.images import small_image

site, tools, folder = Path(sys.argv[1]), Tools(Path(sys.argv[2])), Path(sys.argv[3])
run.verbose = True
topology, secrets = load_topology(site), read_secrets(site.with_suffix(".secrets.toml"))
for role in Role:
    image, given = small_image(folder, role), credentials(secrets, topology, role)
    overlay(tools, raw(image.path), folder / f"{role}.qcow2")
    provision(tools, image, given, folder / f"{role}.qcow2")
    (folder / f"{role}.flashed").write_bytes(bytes(image.size_bytes))
    provisioned = Provisioned(image, secrets_filesystem(tools, given, limit_bytes=2**20))
    flash(provisioned, folder / f"{role}.flashed")
    with shaped(provisioned, Format.VHD, tools) as made:
        put(made, (folder / f"{role}.vhd").as_uri())
"""


def canaries(secrets: Secrets) -> dict[str, bytes]:
    """Return of each secret a piece that no chance repeats, by its name."""
    return {name: piece(name, value) for name, value in named(secrets).items()}


def seen_in(content: bytes, birds: dict[str, bytes]) -> set[str]:
    return {name for name, bird in birds.items() if bird in content}


@contextmanager
def watched(birds: dict[str, bytes]) -> Iterator[set[str]]:
    """Look at arguments and environments of all processes, over and over; yield what was seen of *birds* so far."""
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for process in Path("/proc").iterdir():
                for file in ("cmdline", "environ") if process.name.isdecimal() else ():
                    try:
                        found = seen_in((process / file).read_bytes(), birds)
                    except OSError:
                        continue
                    seen.update(f"{name} in {process / file}" for name in found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


@pytest.fixture
def tools(plan: Plan) -> Tools:
    """Return the tools alone, which need no image."""
    return build_tools(the_store(), plan)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A topology with encrypted secrets, and folders of its own for everything temporary."""
    for name in ("site", "home", "temporary", "work"):
        (tmp_path / name).mkdir()
    public = ssh_pair(tmp_path / "id")
    monkeypatch.setenv("IMAGEBUILDER_IDENTITY", str(tmp_path / "id"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    path = tmp_path / "site/topology.toml"
    path.write_text(REFERENCE.read_text())
    init(path, recipients=[public])
    return path


def test_the_watch_sees_a_secret_that_is_there() -> None:
    with watched({"bird": b"canary-4711"}) as seen:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(1)", "canary-4711"], check=True)

    assert any("cmdline" in place for place in seen)


def test_provisioning_shows_no_secret_anywhere_but_in_its_partition(tools: Tools, site: Path, tmp_path: Path) -> None:
    birds = canaries(read_secrets(site.with_suffix(".secrets.toml")))
    argv = [sys.executable, "-c", PROVISION, str(site), str(tools.tree), str(tmp_path / "work")]

    with watched(birds) as seen:
        done = subprocess.run(argv, check=True, capture_output=True, cwd=Path(__file__).parents[2])

    assert seen == set()
    assert b"mkfs.erofs" in done.stderr  # each command was shown
    assert seen_in(done.stdout + done.stderr, birds) == set()
    for folder in ("home", "temporary", "site"):
        for file in (tmp_path / folder).rglob("*"):
            assert file.is_dir() or seen_in(file.read_bytes(), birds) == set(), file
    for role in ("proxy", "client"):
        content = (tmp_path / "work" / f"{role}.flashed").read_bytes()
        assert f"ssh/{role}" in seen_in(content[SECRETS:], birds)
        assert seen_in(content[:SECRETS], birds) == set()
    kept = {file.name for file in (tmp_path / "work").iterdir()}
    assert kept == {f"{role}.{kind}" for role in ("proxy", "client") for kind in ("raw", "qcow2", "flashed", "vhd")}
    assert seen_in((tmp_path / "work/proxy.flashed").read_bytes(), birds) <= {"wireguard/proxy", "ssh/proxy", "tls"}


@pytest.mark.parametrize(
    "argv",
    [["list"], ["list", "--json"], ["rotate", "dkim/example.org"], ["rotate", "mailboxes/bob@example.org"], ["init"]],
)
def test_the_command_shows_secrets_only_when_asked_to_export_them(site: Path, argv: list[str], tmp_path: Path) -> None:
    before = canaries(read_secrets(site.with_suffix(".secrets.toml")))
    command = [sys.executable, "-m", "imagebuilder", "secrets", *argv, "-v", "-t", str(site)]

    with watched(before) as seen:
        done = subprocess.run(command, check=True, capture_output=True)

    birds = before | canaries(read_secrets(site.with_suffix(".secrets.toml")))
    assert seen == set()
    assert seen_in(done.stdout + done.stderr, birds) == set()
    for file in (
        *(tmp_path / "site").rglob("*"),
        *(tmp_path / "temporary").rglob("*"),
        *(tmp_path / "home").rglob("*"),
    ):
        assert seen_in(file.read_bytes(), birds) == set(), file


def test_a_build_needs_no_secret_and_the_store_has_none(built: object, pytestconfig: pytest.Config) -> None:
    path: Path = pytestconfig.getoption("--topology")
    birds = canaries(read_secrets(path.with_suffix(".secrets.toml")))
    store: Store = the_store()

    for folder in (store.root / "generations").rglob("*"):
        assert folder.is_dir() or seen_in(folder.read_bytes(), birds) == set(), folder
    for image in (store.root / "outputs").glob("*-image/*"):
        assert not any_in_data(image, birds), image


def any_in_data(path: Path, birds: dict[str, bytes]) -> set[str]:
    """Return which of *birds* are in the file *path*, whose holes are not read."""
    found: set[str] = set()
    with path.open("rb", buffering=0) as file:
        size, place = os.fstat(file.fileno()).st_size, 0
        while place < size:
            try:
                start = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:
                break
            place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            for offset in range(start, place, 2**24):
                found |= seen_in(os.pread(file.fileno(), 2**24 + 64, offset), birds)
    return found


def test_a_crash_leaves_no_memory_on_the_disk() -> None:
    script = (
        "import resource, subprocess, sys; from imagebuilder.run import forbid_core_dumps; forbid_core_dumps();"
        "code = 'import resource; print(resource.getrlimit(resource.RLIMIT_CORE))';"
        "subprocess.run([sys.executable, '-c', code], check=True)"
    )
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    assert said.strip() == "(1, 1)"
