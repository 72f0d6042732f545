"""The command line, killed at random moments of what it does with real images: never a corrupt store."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from imagebuilder.commands.sources import the_store
from imagebuilder.pipeline import Built
from imagebuilder.plan import Plan
from imagebuilder.store.folder import Store
from imagebuilder.store.upkeep import inspect
from tests.accept.conftest import copy_files

pytestmark = [pytest.mark.accept, pytest.mark.nightly]

KILLS = 50
"""Moments at which something was going on that was ended."""
FEWER_FILES = 60
"""So many downloads are taken away before each fetch."""


@dataclass
class Place:
    """A store of its own, a topology that changes, and a folder that outputs are shared by."""

    folder: Path
    taken_s: dict[str, float] = field(default_factory=dict)
    """How long a kind of run took that was left alone."""

    @property
    def store(self) -> Store:
        return Store(self.folder / "s")

    @property
    def topology(self) -> Path:
        return self.folder / "topology.toml"

    def run(self, kind: str, *, after_s: float | None = None) -> bool:
        """Run the commands of *kind*, and kill them after a while; say whether they were at it still."""
        environment = os.environ | {"IMAGEBUILDER_STORE": str(self.store.root), "IMAGEBUILDER_SUBSTITUTERS": ""}
        argv = [sys.executable, "-m", "imagebuilder", *COMMANDS[kind](self.folder), "--topology", str(self.topology)]
        began = time.monotonic()
        with subprocess.Popen(
            argv, env=environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            try:
                said, _ = process.communicate(timeout=300 if after_s is None else after_s)
            except subprocess.TimeoutExpired:
                process.kill()
                return True
        assert process.returncode == 0, said.decode()
        self.taken_s[kind] = time.monotonic() - began
        return False

    def prepare(self, kind: str, chance: random.Random) -> None:
        """See to it that a run of *kind* has something to do."""
        if kind in ("build", "gc"):
            self.change(chance.randrange(1280, 1420))
        if kind == "gc":
            self.run("build")
        if kind == "fetch":
            for path in chance.sample(sorted((self.store.root / "files").iterdir()), FEWER_FILES):
                path.unlink()
        if kind == "push":
            shutil.rmtree(self.folder / "shared/outputs", ignore_errors=True)

    def change(self, mtu: int) -> None:
        """Make another topology of it, whose images are others."""
        lines = self.topology.read_text().splitlines()
        self.topology.write_text("\n".join(f"mtu = {mtu}" if line.startswith("mtu =") else line for line in lines))


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "build": lambda folder: ["build"],
    "fetch": lambda folder: ["store", "pull", str(folder / "mirror"), "--files-only"],
    "push": lambda folder: ["store", "push", str(folder / "shared"), "--sign-with", str(folder / "key")],
    "gc": lambda folder: ["gc", "--keep", "1"],
}


@pytest.fixture
def place(built: Built, plan: Plan, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Place]:
    """Give a place whose store has all but images: the steps to them are those of the store at hand."""
    shared, place = the_store(), Place(tmp_path)
    copy_files(pytestconfig.getoption("--topology"), place.topology)
    for folder in ("s/outputs", "s/files", "mirror"):
        (tmp_path / folder).mkdir(parents=True)
    images = {str(role.image) for role in plan.roles.values()}
    for step in map(str, plan.steps):
        if step not in images and (shared.root / "outputs" / step).is_dir():
            (place.store.root / "outputs" / step).symlink_to(shared.root / "outputs" / step)
    for package in plan.lock.packages:
        for target in (place.store.file(package.sha256), tmp_path / "mirror" / package.sha256):
            with contextlib.suppress(FileNotFoundError):
                _same(shared.file(package.sha256), target)
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    yield place
    for folder in ("s", "mirror", "shared", "theirs"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)


def _same(source: Path, target: Path) -> None:
    """Make *target* another name of *source*, or a copy where that can't be."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def sound(place: Place) -> None:
    found = inspect(place.store)
    assert found.damaged == ()
    # The links to the steps of the store at hand are, as they have their manifests there.
    assert not [name for name in found.unrecorded if not (place.store.root / "outputs" / name).is_symlink()]


def test_a_store_stays_sound_whenever_a_command_is_killed(place: Place) -> None:
    chance, kinds = random.Random("killed"), list(COMMANDS)
    for kind in kinds:
        place.run(kind)
    sound(place)
    kills = dict.fromkeys(kinds, 0)
    for turn in range(3 * KILLS):
        kind = kinds[turn % len(kinds)]
        place.prepare(kind, chance)
        # Past what Python takes to begin, mostly.
        kills[kind] += place.run(kind, after_s=chance.uniform(0.3, max(1.0, place.taken_s[kind])))
        sound(place)
        if sum(kills.values()) == KILLS:
            break

    assert sum(kills.values()) == KILLS, kills
    assert min(kills.values()) > KILLS // 10, kills
    for kind in kinds:
        place.run(kind)
    sound(place)
    theirs = place.folder / "theirs"
    argv = [sys.executable, "-m", "imagebuilder", "store", "pull", "shared", "--trusted-keys", "key.pub"]
    pulled = subprocess.run(
        [*argv, "--topology", str(place.topology)], env=os.environ | {"IMAGEBUILDER_STORE": str(theirs)},
        cwd=place.folder, capture_output=True, check=False,
    )  # fmt: skip
    # What was pushed is what the last build made, whatever was cut off before.
    assert pulled.stdout.decode().count("-difference\n") == 2, pulled.stderr.decode()
    assert inspect(Store(theirs)).damaged == ()
