"""What is run on a machine that is taken over does what it says, and a dry run tells of all of it."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.shipping.takeover.itinerary import Itinerary
from imagebuilder.shipping.takeover.network import network_of
from imagebuilder.shipping.takeover.passage import HELD, IDENTITY, RUN_FILE, SOFT_REBOOT, settings_of, stage_script
from imagebuilder.shipping.takeover.preflight import judged
from tests.unit.takeovers import proxy, stock, wanted

CPIO = """\
#!/bin/sh
# In the place of ld.so: what is given to cpio is listed instead.
sort
"""
SSHD = """\
#!/bin/sh
cat <<END
port 2222
hostkey {0}/keys/ssh_host_ed25519_key
hostkey {0}/keys/missing_key
authorizedkeysfile .ssh/authorized_keys {0}/more/%u
END
"""


def run(script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run *script* as the shell over there does."""
    return subprocess.run(
        ["sh", "-c", script], check=False, env={**os.environ, **environment}, capture_output=True, text=True
    )


def way(**about: str) -> Itinerary:
    facts = stock(**about)
    return Itinerary(
        "root@vps", "the proxy of generation 3", facts, judged(facts, wanted()), 60 * 2**20, 300 * 2**20, 10
    )


def test_the_first_place_with_room_is_taken_and_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "large/imagebuilder.abcdef").mkdir(parents=True)
    (tmp_path / "large/imagebuilder-vda.lock").touch()

    done = run(stage_script(1024, ("/proc", str(tmp_path / "large"))))

    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.parent == tmp_path / "large"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (tmp_path / "large").iterdir()} == {folder.name, "imagebuilder-vda.lock"}


def test_a_machine_without_room_is_told_so_and_nothing_stays(tmp_path: Path) -> None:
    done = run(stage_script(2**60, (str(tmp_path),)))

    assert done.returncode == 1
    assert "there is no folder with room for" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def old_system(tmp_path: Path) -> Path:
    """What the identity of a system consists of: keys, and who may log in."""
    for name in ("bin", "keys", "more", "home/.ssh", "staged/tree/etc/ssh/authorized_keys.d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin/sshd").write_text(SSHD.format(tmp_path))
    (tmp_path / "staged/ld.so").write_text(CPIO)
    for program in (tmp_path / "bin/sshd", tmp_path / "staged/ld.so"):
        program.chmod(0o755)
    (tmp_path / "keys/ssh_host_ed25519_key").write_text("PRIVATE")
    (tmp_path / "keys/ssh_host_ed25519_key").chmod(0o600)
    (tmp_path / "home/.ssh/authorized_keys").write_text("ssh-ed25519 AAAA owner")
    (tmp_path / "more/root").write_text("ssh-ed25519 BBBB other\n")
    (tmp_path / "staged/tree/etc/ssh/authorized_keys.d/root").write_text("ssh-ed25519 CCCC topology\n")
    return tmp_path


def identity(system: Path) -> "subprocess.CompletedProcess[str]":
    path = f"{system / 'bin'}:{os.environ['PATH']}"
    return run(IDENTITY.replace("@FOLDER@", str(system / "staged")), PATH=path, HOME=str(system / "home"))


def test_the_installer_has_the_old_systems_keys_and_lets_the_same_people_in(old_system: Path) -> None:
    done = identity(old_system)

    assert done.returncode == 0, done.stdout + done.stderr
    tree = old_system / "staged/tree/etc/ssh"
    assert (tree / "ssh_host_ed25519_key").read_text() == "PRIVATE"
    assert (tree / "ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600
    assert (tree / "sshd_config.d/old.conf").read_text() == "HostKey /etc/ssh/ssh_host_ed25519_key\nPort 2222\n"
    assert [line.split()[2] for line in (tree / "authorized_keys.d/root").read_text().splitlines() if line] == [
        "topology",
        "owner",
        "other",
    ]
    packed = (old_system / "staged/initrd").read_text().split()
    assert "./etc/ssh/ssh_host_ed25519_key" in packed
    assert "PRIVATE" not in done.stdout


def test_nobody_is_locked_out_and_nothing_goes_on_without_a_key(old_system: Path) -> None:
    (old_system / "keys/ssh_host_ed25519_key").unlink()
    assert "no host key in the form of OpenSSH" in identity(old_system).stdout

    (old_system / "keys/ssh_host_ed25519_key").write_text("PRIVATE")
    for name in ("home/.ssh/authorized_keys", "more/root", "staged/tree/etc/ssh/authorized_keys.d/root"):
        (old_system / name).write_text("# nobody\n")
    done = identity(old_system)
    assert done.returncode == 1
    assert "root has no authorized key there" in done.stdout


def test_the_installer_is_told_its_network_its_run_and_its_patience() -> None:
    files = settings_of(network_of(stock()), run="abc", patience_min=7, keys=("ssh-ed25519 AAAA owner",))

    assert files[RUN_FILE] == "abc\n"
    assert "Address=198.18.0.10/24" in files["etc/systemd/network/00-uplink.network"]
    assert files["etc/systemd/system/give-up.timer.d/patience.conf"] == "[Timer]\nOnActiveSec=\nOnActiveSec=7min\n"
    assert files["etc/ssh/authorized_keys.d/root"] == "ssh-ed25519 AAAA owner\n"


def fakes(folder: Path, **programs: str) -> str:
    """Return a PATH on which *programs* come first."""
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_soft_reboot_is_asked_for_and_a_refusal_is_told(tmp_path: Path) -> None:
    done = run(SOFT_REBOOT, PATH=fakes(tmp_path, systemctl="echo $*"))
    assert (done.returncode, done.stdout) == (0, "--no-block soft-reboot\n")

    done = run(SOFT_REBOOT, PATH=fakes(tmp_path, systemctl="echo an inhibitor; exit 1", umount="exit 1"))
    assert (done.returncode, done.stdout) == (1, "an inhibitor\n")


@pytest.mark.parametrize(("busy", "told"), [(0, ""), (2, ""), (9, "held\n")])
def test_a_disk_is_written_to_when_the_kernel_has_let_go_of_it(tmp_path: Path, busy: int, told: str) -> None:
    blockdev = f"echo $* >>{tmp_path}/asked; [ $(grep -c . {tmp_path}/asked) -gt {busy} ] || echo Resource busy >&2"
    path = fakes(tmp_path, blockdev=blockdev, swapoff="exit 1", sleep=":")

    done = run(HELD.replace("@DISK@", "/dev/vda").replace("@SECONDS@", "5"), PATH=path)

    assert (done.returncode, done.stdout) == (0, told)
    assert set((tmp_path / "asked").read_text().splitlines()) == {"--rereadpt /dev/vda"}


def test_a_dry_run_tells_machine_remarks_and_every_step() -> None:
    text = way(port_25="closed").text().splitlines()

    assert text[0] == "root@vps"
    assert text[1] == "  machine: x86_64, kvm, UEFI, 966 MiB of memory"
    assert "  port 25 outbound: closed" in text
    assert sum(line.startswith("  note: port 25 is not reached") for line in text) == 1
    steps = [line for line in text if line[:1].isdigit()]
    assert [step.split(" ")[1] for step in steps] == ["send", "load", "shut", "overwrite", "start"]
    assert steps[3].startswith("4. overwrite /dev/vda with the proxy of generation 3 (300 MiB of data) and its secrets")


def test_a_dry_run_tells_that_the_old_kernel_stays_where_it_does() -> None:
    itinerary = way(kexec_disabled="1")
    text = itinerary.text()

    assert "  note: kexec: it is switched off until the next start" in text
    assert "\n2. unpack it in memory, at /run/nextroot, and remove the folder\n" in text
    assert "\n3. shut the old system down but for its kernel, which stays until the new one starts, and enter" in text
    assert (way().told()["way"], itinerary.told()["way"]) == ("kexec", "soft-reboot")


def test_a_dry_run_shows_the_settings_that_are_carried_over() -> None:
    facts = stock()
    judgement = judged(facts, wanted(proxy=proxy(dhcp=True)))

    told = replace(way(), judgement=judgement).text()

    assert "and the network settings beside them" in told
    assert "  Address=198.18.0.10/24\n" in told
    assert replace(way(), judgement=judgement).told()["carries_network"] is True
