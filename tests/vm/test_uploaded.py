"""What was uploaded into a rescue system starts, mail flows, and `status` says so of both hosts."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.cli import main
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import build_recorded
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.commands.status import looked_at
from imagebuilder.generations import Generations
from imagebuilder.run import run, say
from imagebuilder.runs.history import History
from imagebuilder.secrets.vault import read_secrets
from imagebuilder.topology import Role
from imagebuilder.vm.disks import DISK_GIB
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.readiness import wait_until_mail_flows
from imagebuilder.vm.session import Subject, session
from tests.accept.rescue_room import Rescue, Road, loop, rescue
from tests.unit.keys import ssh_pair

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="loop devices need root"),
]


@pytest.fixture
def site(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """The topology that --topology names, with an administrator whose key we have."""
    path = pytestconfig.getoption("--topology")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("--topology names none")
    site = tmp_path / "topology.toml"
    for suffix in (".lock", ".public.toml", ".secrets.toml"):
        shutil.copy(path.with_suffix(suffix), site.with_suffix(suffix))
    key = ssh_pair(tmp_path / "admin")
    (tmp_path / "admin").chmod(0o600)
    site.write_text(path.read_text().replace("[admin]\n", f'[admin]\nssh_keys = ["{key}"]\n'))
    return site


@pytest.fixture
def subject(site: Path) -> Subject:
    files, store = Files(site), the_store()
    built, _ = build_recorded(files, store, sources_of_environment())
    topology, public, _ = files.read()
    secrets = read_secrets(files.secrets)
    return Subject(built.images, topology, public, secrets, built.tools, History(store).new_run(), store.root)


@pytest.fixture
def host(site: Path, subject: Subject, tmp_path: Path) -> Iterator[Rescue]:
    tree, base = tmp_path / "tree", the_store().path(Files(site).plan().roles[Role.PROXY].base)
    tree.mkdir()
    extract = ["fsck.erofs", f"--extract={tree}", "--overwrite", "--preserve", str(base / "root.erofs")]
    run(subject.tools.argv(extract, read=[base], write=[tree]))
    with rescue(tmp_path / "rescue", tree, subject.tools.tree) as running:
        yield running


def uploaded(site: Path, host: Rescue, disk: Path) -> None:
    """Make *disk* one that was full of something else, and upload the proxy to it, over a connection that is cut."""
    with disk.open("wb") as file:
        for place in (0, 700 * 2**20, DISK_GIB * 2**30 - 2**20):
            file.seek(place)
            file.write(b"what was here before" * (2**20 // 20))
        file.truncate(DISK_GIB * 2**30)
    with loop(disk) as device, Road(host.port, cuts=[100 * 2**20]) as road:
        argv = ["upload", "proxy", f"ssh://root@127.0.0.1:{road.port}", "--device", str(device), "--untested", "--yes"]
        argv += ["--identity", str(host.folder / "id"), "--known-hosts", str(host.known_hosts(road.port))]
        assert main([*argv, "--no-reboot", "-t", str(site)]) == 0
        assert road.connections == 2


def test_an_uploaded_proxy_starts_and_does_its_work(
    site: Path, subject: Subject, host: Rescue, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "uploaded.raw"
    uploaded(site, host, disk)
    generation = Generations(the_store(), site).latest()
    assert generation is not None

    def work() -> None:
        images = {**subject.images, Role.PROXY: replace(subject.images[Role.PROXY], path=disk)}
        with session(replace(subject, images=images)) as bed:
            pair = bed.new_pair("uploaded")
            try:
                pair.boot(lambda: wait_until_mail_flows(bed.world, bed.accelerator.patience))
                assert pair.proxy.execute("test -d /sys/firmware/efi").status == 0
                for role in Role:
                    with bed.world.stranger.entered():
                        checks = looked_at(generation, role, None, wait_s=60, identity=tmp_path / "admin")
                    say("\n".join([f"{role}:", *map(str, checks)]))
                    assert [check.name for check in checks if not check.right] == []
                # What can be wrong is told: the client is off, and the proxy can't take mail for it.
                pair.client.kill()
                with bed.world.stranger.entered():
                    checks = looked_at(generation, Role.PROXY, None, wait_s=0, identity=tmp_path / "admin")
                say("\n".join(["the client is off:", *map(str, checks)]))
                assert "mail from outside (25)" in [check.name for check in checks if check.right is False]
            except BaseException as failure:
                failure.add_note(pair.report())
                raise
            finally:
                pair.kill()

    inside(work)
    shutil.rmtree(subject.folder, ignore_errors=True)
