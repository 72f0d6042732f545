"""A stock Debian of 1 GB becomes the proxy, over ssh and with nothing but its own disk; or stays what it was."""

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from imagebuilder.build.installer import Installer, build_installer
from imagebuilder.commands.cargo import Cargo
from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import source_arguments, the_store
from imagebuilder.commands.subject import subject_of
from imagebuilder.commands.takeover import Options, is_running_from, itinerary, made_ready, require_fit
from imagebuilder.generations import Generations
from imagebuilder.run import say
from imagebuilder.secrets.keys import credentials
from imagebuilder.shipping.disks import COLUMNS, parsed
from imagebuilder.shipping.far_disk import far_disks, restart
from imagebuilder.shipping.gate import Cleared
from imagebuilder.shipping.remote import Address, RemoteError, connected
from imagebuilder.shipping.takeover.passage import arrive, leave, load, settings_of
from imagebuilder.shipping.takeover.preflight import Way
from imagebuilder.shipping.transfer import upload
from imagebuilder.topology import Role
from imagebuilder.vm.disks import overlay, raw
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.readiness import wait_until_certified, wait_until_mail_flows
from imagebuilder.vm.session import Session, Subject, session
from imagebuilder.vm.waiting import Seen, wait_for
from tests.unit.keys import ssh_pair
from tests.vm.machines import client_of, machine_of
from tests.vm.stock import stock_disk

pytestmark = [pytest.mark.vm, pytest.mark.nightly, pytest.mark.timeout(2400)]

NETWORK = "/etc/systemd/network/uplink.network"


@dataclass(frozen=True)
class Site:
    """What there is to ship, and what ships it."""

    subject: Subject
    installer: Installer
    stock: Path
    generation: Generations


@pytest.fixture(scope="module")
def site(pytestconfig: pytest.Config) -> Site:
    """What --topology means, built, with installer and stock system; without it these tests are skipped."""
    path = pytestconfig.getoption("--topology")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("--topology names none")
    parser = argparse.ArgumentParser()
    source_arguments(parser)
    subject, _ = subject_of(argparse.Namespace(**vars(parser.parse_args([])), topology=path))
    store, plan = the_store(), Files(path).plan()
    installer = build_installer(store, subject.tools, plan)
    return Site(subject, installer, stock_disk(store, subject.tools, plan), Generations(store, path))


@contextmanager
def bed(site: Site, name: str) -> Iterator[Session]:
    folder = site.subject.folder / name
    with session(replace(site.subject, folder=folder)) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def stock_machine(site: Site, running: Session, address: IPv4Interface, way: Way) -> tuple[Machine, Address]:
    """Return a running stock Debian with *address* as a provider sets it up, and how its owner reaches it.

    By *way* its kernel has kexec or is kept from it.
    """
    tools, proxy = running.subject.tools, running.subject.topology.proxy
    disk = running.disks / "stock.qcow2"
    overlay(tools, raw(site.stock), disk)
    machine = machine_of(running, Role.PROXY, disk, under=site.stock)
    machine.start()
    for unit in ("systemd-networkd.service", "ssh.service"):
        machine.wait_for_unit(unit, within_s=120)
    lines = ["[Match]", "Type=ether", "Kind=!*", "[Network]", f"Address={address}", f"Address={proxy.ipv6}"]
    for gateway in (proxy.ipv4_gateway, proxy.ipv6_gateway):
        lines += ["[Route]", f"Gateway={gateway}", "GatewayOnLink=yes"]
    machine.write_file(NETWORK, ("\n".join(lines) + "\n").encode())
    public = ssh_pair(running.disks / "id")
    (running.disks / "id").chmod(0o600)
    machine.succeed("mkdir -p -m 0700 /root/.ssh")
    machine.write_file("/root/.ssh/authorized_keys", f"{public}\n".encode(), mode="0600")
    machine.succeed("networkctl reload && systemctl restart ssh", timeout_s=60)
    if way is Way.SOFT_REBOOT:
        machine.succeed("echo 1 >/proc/sys/kernel/kexec_load_disabled")
    key = machine.read_file("/etc/ssh/ssh_host_ed25519_key.pub").decode()
    (running.disks / "known_hosts").write_text(f"{address.ip} {key}")
    there = Address(
        str(address.ip),
        identity=running.disks / "id",
        known_hosts=running.disks / "known_hosts",
        options=("IdentitiesOnly=yes", "IdentityAgent=none"),
    )
    return machine, there


def hostname(there: Address) -> str:
    """Return the name of the system that answers, or why none does."""
    try:
        with connected(there) as shell:
            return shell.text("cat /etc/hostname")
    except RemoteError as error:
        return str(error)


def cargo_of(site: Site, running: Session) -> Cargo:
    """Return the proxy with the bed's own keys: they are what the client and the people of the bed know."""
    subject = running.subject
    generation = site.generation.latest()
    assert generation is not None
    cleared = Cleared(generation, subject.images[Role.PROXY], tested=False)
    return Cargo(cleared, subject.tools, credentials(running.credentials.secrets, subject.topology, Role.PROXY))


@pytest.mark.parametrize("way", Way)
def test_a_stock_debian_becomes_the_proxy_with_the_network_that_it_had_and_mail_flows(site: Site, way: Way) -> None:
    def work() -> None:
        with bed(site, f"becomes-{way}") as running:
            began = time.monotonic()

            def passed(what: str) -> None:
                say(f"takeover: {what} after {time.monotonic() - began:.0f} s")

            proxy = running.subject.topology.proxy
            # As some providers have it: a single address whose router is reached on the link all the same.
            machine, there = stock_machine(site, running, IPv4Interface((proxy.ipv4.ip, 32)), way)
            passed("the stock system runs")
            machines = [machine]
            try:
                with running.world.user.entered():
                    ready = made_ready(there, cargo_of(site, running), Options(keep_network=True), lambda _: None)
                    machine.starts_anew()
                    passed("the installer runs")
                    assert ready.disk is not None
                    assert ready.way is not None
                    assert ready.way.judgement.carries_network
                    assert ready.way.judgement.way is way
                    with connected(there) as shell:
                        say(shell.text("head -3 /proc/meminfo; df -k / | tail -1; uname -r"))
                        assert not is_running_from(far_disks(shell))
                    whole = ready.cargo.on_disk(ready.disk.size_bytes)
                    tally = upload(whole, lambda: connected(there), ready.disk.path, who="me")
                    passed(f"{tally.sent_bytes / 2**20:.0f} MiB were sent, {tally.connections} connections")
                    with connected(there) as shell:
                        restart(shell)
                machine.starts_anew()
                machines.append(client_of(running, running.credentials.secrets))
                for one in machines:
                    one.wait_for_boot()
                passed("both have booted")
                card = machine.succeed('ip -json route show default | sed \'s/.*"dev":"\\([^"]*\\)".*/\\1/\'').strip()
                assert "/run/systemd/network/10-carried-over.network" in machine.succeed(f"networkctl status {card}")
                assert f"{proxy.ipv4.ip}/32" in machine.succeed("ip -4 address show scope global")
                assert "via" in machine.succeed("ip route show default")
                wait_until_mail_flows(running.world, running.accelerator.patience)
                wait_until_certified(running.world, running.accelerator.patience)
                # What is mounted from a partition keeps the whole disk from being overwritten, there and anywhere.
                argv = f"lsblk --json --bytes --output {COLUMNS}"
                (whole_disk,) = (one for one in parsed(machine.succeed(argv)) if one.path == ready.disk.path)
                assert "/var" in whole_disk.mounted
                alice, stranger = running.person(0), running.stranger()
                stranger.send_persistently(alice.address, "taken over", "Is this on?\n")
                delivered = alice.receive("taken over")
                assert delivered.text == "Is this on?\n"
                passed("mail was delivered")
            except BaseException as failure:
                for one in machines:
                    failure.add_note(one.report())
                raise
            finally:
                for one in machines:
                    one.kill()

    inside(work)


@pytest.mark.parametrize("way", Way)
def test_a_machine_whose_operator_does_not_come_back_runs_its_old_system_again(site: Site, way: Way) -> None:
    def work() -> None:
        with bed(site, f"returns-{way}") as running:
            proxy = running.subject.topology.proxy
            machine, there = stock_machine(site, running, proxy.ipv4, way)
            try:
                with running.world.user.entered():
                    cargo = cargo_of(site, running)
                    with connected(there) as shell:
                        found = itinerary(shell, cargo, site.installer, Options())
                        require_fit(found)
                        judgement = found.judgement
                        assert (judgement.way, judgement.carries_network) == (way, False)
                        assert judgement.network is not None
                        settings = settings_of(judgement.network, run="left-alone", patience_min=2, keys=())
                        leave(shell, load(shell, site.installer, settings, way), way)
                    patience = running.accelerator.patience
                    arrive(lambda: connected(there), "left-alone", within_s=patience.seconds(60))
                    assert hostname(there) == "installer"

                    def look() -> Seen:
                        name = hostname(there)
                        return Seen(name == "stock", name)

                    wait_for("the old system", look, within_s=120 + patience.seconds(60), every_s=5)
            except BaseException as failure:
                failure.add_note(machine.report())
                raise
            finally:
                machine.kill()

    inside(work)
