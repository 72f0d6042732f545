"""What is run on a machine that is to be taken over, over a real ssh: it is judged, and whole when it is not left."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuilder.build.installer import Installer
from imagebuilder.build.toolchain import extract
from imagebuilder.cli import main
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.commands.takeover import is_running_from
from imagebuilder.lock.model import Closure
from imagebuilder.resources import PROFILES
from imagebuilder.shipping.far_disk import far_disks
from imagebuilder.shipping.remote import RemoteError, connected
from imagebuilder.shipping.takeover.facts import facts, script
from imagebuilder.shipping.takeover.network import network_of
from imagebuilder.shipping.takeover.passage import is_installer, load, settings_of
from imagebuilder.shipping.takeover.preflight import judged
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from tests.accept.rescue_room import Rescue, loop, rescue
from tests.unit.shipping import attest, generation
from tests.unit.takeovers import stock, wanted

pytestmark = [pytest.mark.accept, pytest.mark.skipif(os.geteuid() != 0, reason="a system of its own needs root")]

NEEDED = ("base-files", "cpio", "kexec-tools", "libc6", "libxen", "zlib1g", "liblzma5", "libzstd1")


@pytest.fixture(scope="module")
def host(
    tools: Tools, package_tree: Callable[[Role], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rescue]:
    """A system with ssh and the tools of any Debian."""
    with rescue(tmp_path_factory.mktemp("room") / "system", package_tree(Role.PROXY), tools.tree) as running:
        yield running


@pytest.fixture(scope="module")
def installer(pytestconfig: pytest.Config, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Installer:
    """An installer with its real kit, made as in its build, and a kernel that none takes for one."""
    folder, tree = tmp_path_factory.mktemp("installer"), tmp_path_factory.mktemp("tree")
    closure = Files(pytestconfig.getoption("--topology")).plan().lock.closure(Closure.INSTALLER)
    extract(the_store(), [package for package in closure if package.name.startswith(NEEDED)], tree)
    environment = {
        "BUILDROOT": str(tree),
        "OUTPUTDIR": str(folder),
        "SOURCE_DATE_EPOCH": "0",
        "PATH": os.environ["PATH"],
    }
    subprocess.run(["sh", str(PROFILES / "installer/mkosi.finalize")], env=environment, check=True)
    (folder / "vmlinuz").write_bytes(b"no kernel")
    (folder / "initrd").write_bytes(bytes(3 * 2**20 + 5))
    return Installer(folder)


def test_a_system_tells_what_it_is_judged_by(host: Rescue) -> None:
    with connected(host.address) as shell:
        found = facts(shell.text(script(port_25="127.0.0.1")))
        assert not is_running_from(far_disks(shell))
        assert not is_installer(shell)

    assert (found.architecture, found.uid, found.root, found.missing) == ("x86_64", 0, "overlay", ())
    assert found.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert {card.name for card in found.cards} == {path.name for path in Path("/sys/class/net").iterdir()}
    assert found.port_25 in ("open", "closed")
    assert "rights" not in {problem.place for problem in judged(found, wanted()).problems}


def test_a_system_that_takes_no_installer_goes_on_as_it_was(host: Rescue, installer: Installer) -> None:
    settings = settings_of(network_of(stock()), run="never", patience_min=1, keys=())

    with connected(host.address) as shell:
        shell.text("cp /etc/ssh/rescue_key /etc/ssh/ssh_host_ed25519_key")  # where others have it
        with pytest.raises(RemoteError) as refused:
            load(shell, installer, settings)
        # kexec ran there, with its own libraries, and everything had arrived before.
        assert "Cannot determine the file type of vmlinuz" in str(refused.value)
        left = shell.text("ls -d /dev/shm/imagebuilder.* /run/imagebuilder.* /tmp/imagebuilder.* 2>/dev/null || true")
        assert left == ""
        assert shell.text("echo whole") == "whole"


def test_a_dry_run_at_a_rescue_system_names_the_disk_and_writes_nothing(
    host: Rescue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    attest(Store(tmp_path / "store"), generation(tmp_path))
    with (tmp_path / "disk").open("wb") as file:
        file.write(b"what was here before")
        file.truncate(16 * 10**9)
    with loop(tmp_path / "disk") as device:
        argv = ["upload", "proxy", f"ssh://root@127.0.0.1:{host.port}", "-t", str(tmp_path / "topology.toml")]
        argv += ["--identity", str(host.address.identity), "--known-hosts", str(host.address.known_hosts)]
        argv += ["--device", str(device), "--dry-run"]

        assert main(argv) == 0
        assert f"{device} would be overwritten" in capsys.readouterr().out
        assert main([*argv, "--keep-network"]) == 2
        assert "is a rescue system" in capsys.readouterr().err
    with (tmp_path / "disk").open("rb") as file:
        assert file.read(20) == b"what was here before"
