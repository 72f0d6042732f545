"""The machines themselves: they boot on any firmware, in good health, and what they run can't be changed."""

# ruff: noqa: D103 (the name of a test is its sentence)

import pytest

from imagebuilder.topology import Role
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.partitions import root_partition
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.session import Session
from imagebuilder.vm.surroundings import Machines

NO_WARNINGS = {
    " kernel: ": "of the hardware, which is QEMU's",
    "Warning: SIGHUP received - reloading": "is how Dovecot takes up its first certificate",
    "Warning: Time moved forward": "as the bed sets the clock of a machine that goes on from its memory",
}
"""Words of lines that are no warnings of ours, and why."""


def test_both_images_boot_by_uefi_without_a_failed_unit_or_a_stuck_job(pair: Pair) -> None:
    for machine in pair.machines.values():
        machine.succeed("test -d /sys/firmware/efi")
        assert machine.succeed("systemctl is-system-running").strip() == "running"
        assert machine.failed_units() == ""
        assert machine.succeed("systemctl list-jobs --no-legend").strip() == ""


def test_journals_of_a_healthy_run_hold_no_warning(pair: Pair, stranger: Stranger, alice: Person) -> None:
    stranger.send(alice.address, "nothing to see", "All is well.\n")
    alice.receive("nothing to see")
    alice.send(stranger.address, "nothing to see either", "All is well.\n")
    stranger.receive("nothing to see either")

    for machine in pair.machines.values():
        said = machine.succeed("journalctl --boot --priority=warning --no-pager --no-hostname --output=short --quiet")
        assert "\n".join(line for line in said.splitlines() if not any(word in line for word in NO_WARNINGS)) == ""


@pytest.mark.settled
@pytest.mark.parametrize("role", list(Role))
def test_the_root_file_system_can_not_be_written(pair: Pair, role: Role) -> None:
    machine = pair.machines[role]

    assert "Read-only" in machine.fail("echo changed >/etc/hostname")
    assert "Read-only" in machine.fail("touch /usr/bin/new")
    machine.fail("mount -o remount,rw / && touch /usr/bin/new")


@pytest.mark.complaints("damaged root", "disk error", "file system error")
def test_a_flipped_byte_in_the_root_file_system_is_noticed(pair: Pair) -> None:
    for role, machine in pair.machines.items():
        partition = root_partition(pair.images[role])
        block = partition.blocks // 2
        device = machine.succeed('basename "$(readlink "/sys/dev/block/$(mountpoint --fs-devno /)")"').strip()
        read = f"dd if=/dev/{device} of=/dev/null bs=4096 count=1 skip={block} iflag=direct"
        read = f"echo 3 >/proc/sys/vm/drop_caches; {read}"
        assert device.startswith("dm-")
        machine.succeed(read)

        pair.flip_byte(role, partition.offset + block * 4096 + 17)

        assert "error" in machine.fail(read)
        assert "verity" in machine.succeed("dmesg | grep -i corrupt")


@pytest.mark.gentle
@pytest.mark.settled
@pytest.mark.parametrize("role", list(Role))
def test_the_image_that_was_booted_holds_no_secret_and_the_machine_shows_its_own_to_root_alone(
    pair: Machines, role: Role
) -> None:
    image, machine = pair.images[role], pair.machines[role]
    with image.path.open("rb") as disk:
        disk.seek(image.secrets_offset)
        assert not any(disk.read(image.secrets_size))

    assert "ssh.hostkey" in machine.succeed("ls /run/credstore").split()
    assert machine.succeed("stat -c '%a %U' /run/credstore").strip() == "700 root"


@pytest.mark.gentle
@pytest.mark.settled
@pytest.mark.parametrize("role", list(Role))
def test_not_even_root_changes_the_kernel_that_runs(pair: Machines, role: Role) -> None:
    machine = pair.machines[role]

    assert "[integrity]" in machine.succeed("cat /sys/kernel/security/lockdown")
    machine.fail("head -c 1 /dev/mem")


@pytest.mark.settled
def test_a_machines_resolver_validates_what_it_is_told(pair: Pair, bed: Session) -> None:
    name = bed.subject.topology.proxy.hostname
    for machine in pair.machines.values():
        assert answer_is_authentic(machine, name)


def answer_is_authentic(machine: Machine, name: str) -> bool:
    """Return whether the resolver of *machine* vouches for *name*: AD, the lowest but four bit of the fourth byte."""
    question = "".join(f"\\x{len(label):02x}{label}" for label in name.split(".")) + "\\x00\\x00\\x01\\x00\\x01"
    header = "\\xbe\\xef\\x01\\x20\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00"
    answer = machine.execute(
        f"exec 5<>/dev/udp/127.0.0.1/53; printf '%b' '{header}{question}' >&5; head -c 12 <&5", timeout_s=10
    ).stdout
    return len(answer) == 12 and bool(answer[3] & 0x20) and answer[7] > 0
