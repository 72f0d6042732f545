"""What is run on a machine that is to be taken over, over a real ssh: it is judged, and whole when it is not left."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from imagebuilder.build.installer import Installer
from imagebuilder.build.toolchain import extract
from imagebuilder.cli import main
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import the_store
from imagebuilder.commands.takeover import is_running_from
from imagebuilder.lock.model import Closure
from imagebuilder.resources import PROFILES
from imagebuilder.shipping.far_disk import far_disks
from imagebuilder.shipping.remote import RemoteError, Shell, connected
from imagebuilder.shipping.takeover.facts import facts, script
from imagebuilder.shipping.takeover.network import network_of
from imagebuilder.shipping.takeover.passage import is_installer, leave, load, settings_of
from imagebuilder.shipping.takeover.preflight import Way, judged
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from tests.accept.rescue_room import Rescue, loop, rescue
from tests.unit.shipping import attest, generation
from tests.unit.takeovers import stock, wanted

pytestmark = [pytest.mark.accept, pytest.mark.skipif(os.geteuid() != 0, reason="a system of its own needs root")]

NEEDED = ("base-files", "cpio", "kexec-tools", "libc6", "liblz", "libxen", "libxxhash", "zlib1g", "zstd")


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
    kit = tmp_path_factory.mktemp("kit")
    subprocess.run(["tar", "-xf", folder / "kit.tar", "-C", kit], check=True)
    pack = 'find . | "$0/ld.so" --library-path "$0" "$0/cpio" --quiet -o -H newc -R 0:0'
    cpio = subprocess.run(["sh", "-c", pack, kit], cwd=tree, check=True, capture_output=True).stdout
    (folder / "initrd").write_bytes(zstandard.compress(cpio))
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
            load(shell, installer, settings, Way.KEXEC)
        # kexec ran there, with its own libraries, and everything had arrived before.
        assert "Cannot determine the file type of vmlinuz" in str(refused.value)
        assert left_there(shell) == ""
        assert shell.text("echo whole") == "whole"


def left_there(shell: Shell) -> str:
    """Return what there is of an installer."""
    return shell.text("ls -d /dev/shm/imagebuilder.* /run/imagebuilder.* /run/nextroot 2>/dev/null || true")


def test_an_installer_is_unpacked_in_memory_with_what_is_the_machines_own(host: Rescue, installer: Installer) -> None:
    settings = settings_of(network_of(stock()), run="never", patience_min=1, keys=())
    settings["etc/debian_version"] = "the machine's\n"

    with connected(host.address) as shell:
        shell.text("cp /etc/ssh/rescue_key /etc/ssh/ssh_host_ed25519_key")
        load(shell, installer, settings, Way.SOFT_REBOOT)
        # It takes the place of one that was not entered.
        folder = load(shell, installer, settings, Way.SOFT_REBOOT)
        assert left_there(shell) == "/run/nextroot"
        mounted = shell.text("grep /run/nextroot /proc/mounts").split()
        assert (mounted[0], mounted[2]) == ("imagebuilder", "tmpfs")
        assert f"size={-(-installer.unpacked_bytes // 4096) * 4 + 64 * 1024}k" in mounted[3].split(",")
        shell.text("cd /run/nextroot")
        assert shell.text("stat -c '%a %u:%g' . etc root etc/ssh/ssh_host_ed25519_key").split("\n") == [
            "755 0:0",
            "755 0:0",
            "700 0:0",
            "600 0:0",
        ]
        assert shell.text("cmp etc/ssh/ssh_host_ed25519_key /etc/ssh/rescue_key && cat etc/imagebuilder/run") == "never"
        assert "Address=198.18.0.10/24" in shell.text("cat etc/systemd/network/00-uplink.network")
        # As in an initrd of both: of two files of the same name the installer's is there.
        assert shell.text("cat etc/debian_version").startswith("13")
        # By this systemd knows a tree that it may go on in.
        assert "ID=debian" in shell.text("cat etc/os-release")
        assert "Zstandard" in shell.text("chroot . zstd --version")
        assert shell.text("[ ! usr -nt etc/.updated ] && [ ! usr -nt var/.updated ] && cd / && echo whole") == "whole"

        shell.text("ln -s /bin/false /usr/local/sbin/systemctl; ln -s /bin/false /usr/local/bin/systemctl")
        with pytest.raises(RemoteError):
            leave(shell, folder, Way.SOFT_REBOOT)
        assert left_there(shell) == ""


def test_an_installer_that_is_not_whole_leaves_nothing_there(
    host: Rescue, installer: Installer, tmp_path: Path
) -> None:
    broken = Installer(shutil.copytree(installer.folder, tmp_path / "broken"))
    broken.initrd.write_bytes(zstandard.compress(b"no archive" * 100))
    settings = settings_of(network_of(stock()), run="never", patience_min=1, keys=())

    with connected(host.address) as shell:
        shell.text("cp /etc/ssh/rescue_key /etc/ssh/ssh_host_ed25519_key")
        with pytest.raises(RemoteError, match="cpio"):
            load(shell, broken, settings, Way.SOFT_REBOOT)
        assert left_there(shell) == ""


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
