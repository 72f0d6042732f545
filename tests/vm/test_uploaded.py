"""What was uploaded into a rescue system starts, and `status` tells what is right with it and what is wrong."""

import os
import shutil
from collections.abc import Iterator
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
from imagebuilder.vm.session import Session, Subject, session
from tests.accept.rescue_room import Rescue, Road, loop, rescue
from tests.unit.keys import ssh_pair
from tests.vm.machines import client_of, machine_of

pytestmark = [
    pytest.mark.vm,
    pytest.mark.nightly,  # a boot of its own
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
    return Subject(built.images, topology, public, built.tools, History(store).new_run(), secrets, store.root)


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


def test_an_uploaded_proxy_starts_and_status_tells_what_is_right_and_what_is_wrong(
    site: Path, subject: Subject, host: Rescue, tmp_path: Path
) -> None:
    disk = tmp_path / "uploaded.raw"
    uploaded(site, host, disk)
    generation = Generations(the_store(), site).latest()
    assert generation is not None

    def seen(bed: Session, *, wait_s: float) -> dict[str, bool | None]:
        with bed.world.stranger.entered():
            checks = looked_at(generation, Role.PROXY, None, wait_s=wait_s, identity=tmp_path / "admin")
        say("\n".join(map(str, checks)))
        return {check.name: check.right for check in checks}

    def work() -> None:
        with session(subject) as bed:
            machine = machine_of(bed, Role.PROXY, disk, disk_format="raw")
            machines = [machine]
            try:
                machine.start()
                machine.wait_for_boot()
                assert machine.execute("test -d /sys/firmware/efi").status == 0
                size = int(machine.succeed("lsblk --noheadings --bytes --output SIZE /dev/disk/by-partlabel/var"))
                assert size > DISK_GIB * 2**30 - 4 * subject.images[Role.PROXY].size_bytes
                # It shows the host key that was uploaded with it; the client is off, so no mail can be taken for it.
                assert seen(bed, wait_s=0) == {
                    "ssh": True,
                    "system": True,
                    "units": True,
                    "tunnel": False,
                    "mail from outside (25)": False,
                    "submission (587)": False,
                    "IMAP (993)": False,
                }
                machines.append(client_of(bed, subject.secrets))
                machines[-1].wait_for_boot()
                assert set(seen(bed, wait_s=bed.accelerator.patience.seconds(30)).values()) == {True}
            except BaseException as failure:
                for one in machines:
                    failure.add_note(one.report())
                raise
            finally:
                for one in machines:
                    one.kill()

    inside(work)
    shutil.rmtree(subject.folder, ignore_errors=True)
