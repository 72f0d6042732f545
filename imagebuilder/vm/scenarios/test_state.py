"""What the machines are made of and how they run, seen from inside."""

# ruff: noqa: D103 (the name of a test is its sentence)

import hashlib
import re

import pytest

from imagebuilder.render import render_role
from imagebuilder.services import Site
from imagebuilder.topology import Role, Topology
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.session import Session

pytestmark = pytest.mark.settled


@pytest.mark.parametrize("role", list(Role))
def test_what_runs_is_sealed_by_the_hash_of_its_image(pair: Pair, role: Role) -> None:
    line = pair.machines[role].succeed("cat /proc/cmdline")

    assert f"roothash={pair.images[role].root_hash}" in line.split()
    assert "VERITY" in pair.machines[role].succeed('cat "/sys/dev/block/$(mountpoint --fs-devno /)/dm/uuid"')


@pytest.mark.parametrize("role", list(Role))
def test_every_file_of_the_topology_is_there_as_it_was_rendered(
    pair: Pair, bed: Session, topology: Topology, role: Role
) -> None:
    tree = render_role(Site(topology, bed.subject.public, role))
    wanted = {str(path): hashlib.sha256(file.content).hexdigest() for path, file in tree.files.items()}

    said = pair.machines[role].succeed("sha256sum -- " + " ".join(f"'/{path}'" for path in wanted))

    found = {line[67:].removeprefix("/"): line[:64] for line in said.splitlines()}
    assert found == {path.removeprefix("/"): digest for path, digest in wanted.items()}


@pytest.mark.parametrize("role", list(Role))
def test_the_kernel_is_set_as_the_image_says(pair: Pair, role: Role) -> None:
    machine = pair.machines[role]
    text = machine.read_file("/etc/sysctl.d/60-imagebuilder.conf").decode()
    wanted = dict(re.findall(r"^-?([a-z0-9_.]+) = (\S+)$", text, re.MULTILINE))
    assert len(wanted) > 30

    said = machine.succeed("cd /proc/sys; " + "; ".join(f"echo {key} $(cat {key.replace('.', '/')})" for key in wanted))

    assert dict(line.split() for line in said.splitlines() if " " in line) == wanted


@pytest.mark.parametrize("role", list(Role))
def test_nothing_but_the_mail_system_listens(pair: Pair, topology: Topology, role: Role) -> None:
    said = pair.machines[role].succeed("ss --tcp --listening --numeric --no-header | awk '{print $4}'")
    outside = {line for line in said.split() if not line.startswith(("127.", "[::1]"))}

    inside = topology.tunnel
    own = (
        [inside.proxy_address, inside.proxy_ipv6] if role is Role.PROXY else [inside.client_address, inside.client_ipv6]
    )
    tunnel = (f"{own[0]}:", f"[{own[1]}]:")
    everywhere = {re.sub(r"^.*:", "", line) for line in outside if not line.startswith(tunnel)}
    assert everywhere == ({"22", "25", "80", "443", "587", "993"} if role is Role.PROXY else set())


@pytest.mark.parametrize("role", list(Role))
def test_nothing_is_done_by_the_clock_but_what_the_image_says(
    pair: Pair, bed: Session, topology: Topology, role: Role
) -> None:
    said = pair.machines[role].succeed("systemctl list-timers --all --no-legend --plain | awk '{print $(NF-1)}'")

    tree = render_role(Site(topology, bed.subject.public, role))
    ours = {path.name for path in tree.links if path.suffix == ".timer"}
    assert set(said.split()) == ours | {"systemd-tmpfiles-clean.timer"}


@pytest.mark.parametrize("role", list(Role))
def test_no_memory_goes_to_a_disk(pair: Pair, role: Role) -> None:
    machine = pair.machines[role]

    assert machine.succeed("cat /proc/swaps").strip().count("\n") == 0
    assert machine.succeed("cat /proc/sys/fs/suid_dumpable").strip() == "0"
    machine.succeed('test -z "$(find /var/lib/systemd/coredump /var/crash -type f 2>/dev/null)"')


@pytest.mark.parametrize("role", list(Role))
def test_the_clock_is_kept_by_the_network(pair: Pair, role: Role) -> None:
    assert pair.machines[role].systemctl("is-active systemd-timesyncd").strip() == "active"


@pytest.mark.parametrize("role", list(Role))
def test_secrets_are_roots_alone_and_no_service_sees_anothers(pair: Pair, role: Role) -> None:
    machine = pair.machines[role]
    loose = "find /run/credstore /var/lib/certificate /var/lib/acme /var/lib/caddy -xdev -type f -perm /007 2>/dev/null"

    assert machine.succeed(f"{loose}; true").strip() == ""
    assert "Permission denied" in machine.fail(
        "setpriv --reuid=nobody --regid=nogroup --clear-groups ls /run/credstore"
    )


NO_WARNINGS = {
    " kernel: ": "of the hardware, which is QEMU's",
    "Warning: SIGHUP received - reloading": "is how Dovecot takes up its first certificate",
    "Warning: Time moved forward": "as the bed sets the clock of a machine that goes on from its memory",
}
"""Words of lines that are no warnings of ours, and why."""


def test_journals_of_a_healthy_run_hold_no_warning(pair: Pair, stranger: Stranger, alice: Person) -> None:
    stranger.send(alice.address, "nothing to see", "All is well.\n")
    alice.receive("nothing to see")
    alice.send(stranger.address, "nothing to see either", "All is well.\n")
    stranger.receive("nothing to see either")

    for machine in pair.machines.values():
        said = machine.succeed("journalctl --boot --priority=warning --no-pager --no-hostname --output=short --quiet")
        assert "\n".join(line for line in said.splitlines() if not any(word in line for word in NO_WARNINGS)) == ""
