"""What the machines are made of and how they run, seen from inside."""

# ruff: noqa: D103 (the name of a test is its sentence)

import hashlib
import re

import pytest

from imagebuilder.render import render_role
from imagebuilder.services import Site
from imagebuilder.topology import PublicKeys, Role, Topology
from imagebuilder.vm.surroundings import Machines

pytestmark = pytest.mark.settled


@pytest.mark.gentle
@pytest.mark.parametrize("role", list(Role))
def test_what_runs_is_sealed_by_the_hash_of_its_image(pair: Machines, role: Role) -> None:
    line = pair.machines[role].succeed("cat /proc/cmdline")

    assert f"roothash={pair.images[role].root_hash}" in line.split()
    assert "VERITY" in pair.machines[role].succeed('cat "/sys/dev/block/$(mountpoint --fs-devno /)/dm/uuid"')


@pytest.mark.gentle
@pytest.mark.parametrize("role", list(Role))
def test_every_file_of_the_topology_is_there_as_it_was_rendered(
    pair: Machines, public: PublicKeys, topology: Topology, role: Role
) -> None:
    tree = render_role(Site(topology, public, role))
    wanted = {str(path): hashlib.sha256(file.content).hexdigest() for path, file in tree.files.items()}

    said = pair.machines[role].succeed("sha256sum -- " + " ".join(f"'/{path}'" for path in wanted))

    found = {line[67:].removeprefix("/"): line[:64] for line in said.splitlines()}
    assert found == {path.removeprefix("/"): digest for path, digest in wanted.items()}


@pytest.mark.gentle
@pytest.mark.parametrize("role", list(Role))
def test_the_kernel_is_set_as_the_image_says(pair: Machines, role: Role) -> None:
    machine = pair.machines[role]
    text = machine.read_file("/etc/sysctl.d/60-imagebuilder.conf").decode()
    wanted = dict(re.findall(r"^-?([a-z0-9_.]+) = (\S+)$", text, re.MULTILINE))
    assert len(wanted) > 30

    said = machine.succeed("cd /proc/sys; " + "; ".join(f"echo {key} $(cat {key.replace('.', '/')})" for key in wanted))

    assert dict(line.split() for line in said.splitlines() if " " in line) == wanted


@pytest.mark.gentle
@pytest.mark.parametrize("role", list(Role))
def test_nothing_but_the_mail_system_listens(pair: Machines, topology: Topology, role: Role) -> None:
    said = pair.machines[role].succeed("ss --tcp --listening --numeric --no-header | awk '{print $4}'")
    outside = {line for line in said.split() if not line.startswith(("127.", "[::1]"))}

    inside = topology.tunnel
    own = (
        [inside.proxy_address, inside.proxy_ipv6] if role is Role.PROXY else [inside.client_address, inside.client_ipv6]
    )
    tunnel = (f"{own[0]}:", f"[{own[1]}]:")
    everywhere = {re.sub(r"^.*:", "", line) for line in outside if not line.startswith(tunnel)}
    assert everywhere == ({"22", "25", "80", "443", "587", "993"} if role is Role.PROXY else set())


@pytest.mark.gentle
@pytest.mark.parametrize("role", list(Role))
def test_nothing_is_done_by_the_clock_but_what_the_image_says(
    pair: Machines, public: PublicKeys, topology: Topology, role: Role
) -> None:
    said = pair.machines[role].succeed("systemctl list-timers --all --no-legend --plain | awk '{print $(NF-1)}'")

    tree = render_role(Site(topology, public, role))
    ours = {path.name for path in tree.links if path.suffix == ".timer"}
    assert set(said.split()) == ours | {"systemd-tmpfiles-clean.timer"}


@pytest.mark.gentle
@pytest.mark.parametrize("role", list(Role))
def test_no_memory_goes_to_a_disk(pair: Machines, role: Role) -> None:
    machine = pair.machines[role]

    assert machine.succeed("cat /proc/swaps").strip().count("\n") == 0
    assert machine.succeed("cat /proc/sys/fs/suid_dumpable").strip() == "0"
    machine.succeed('test -z "$(find /var/lib/systemd/coredump /var/crash -type f 2>/dev/null)"')


@pytest.mark.gentle
@pytest.mark.parametrize("role", list(Role))
def test_the_clock_is_kept_by_the_network(pair: Machines, role: Role) -> None:
    assert pair.machines[role].systemctl("is-active systemd-timesyncd").strip() == "active"


@pytest.mark.gentle
@pytest.mark.parametrize("role", list(Role))
def test_secrets_are_roots_alone_and_no_service_sees_anothers(pair: Machines, role: Role) -> None:
    machine = pair.machines[role]
    loose = "find /run/credstore /var/lib/certificate /var/lib/acme /var/lib/caddy -xdev -type f -perm /007 2>/dev/null"

    assert machine.succeed(f"{loose}; true").strip() == ""
    assert "Permission denied" in machine.fail(
        "setpriv --reuid=nobody --regid=nogroup --clear-groups ls /run/credstore"
    )
