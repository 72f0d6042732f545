"""What a person can do with the booted pair by hand."""

# ruff: noqa: D103 (the name of a test is its sentence)

import os
import select
import termios
import threading
import time
from pathlib import Path

import pytest

from imagebuilder.vm import terminal
from imagebuilder.vm.faults import FAULTS
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.prompt import Prompt
from imagebuilder.vm.session import Session


def test_the_prompt_shows_hosts_runs_lines_sends_mail_and_lets_things_fail(
    bed: Session, pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    prompt = Prompt(bed, pair, {})
    for line in ("hosts", "proxy cat /etc/hostname", "send by hand", "fault clock client 86400", "client date +%s"):
        assert not prompt.onecmd(line)
    assert not prompt.onecmd("fault loss client much")
    said = capfd.readouterr().out

    assert f"proxy     {bed.subject.topology.proxy.ipv4.ip}" in said
    assert "machine, running" in said
    assert bed.subject.topology.proxy.hostname.partition(".")[0] in said
    assert "'by hand' is in INBOX" in said
    assert any(line.isdecimal() and int(line) > time.time() + 80_000 for line in said.splitlines())
    assert "PERCENT" in said


FAULTS_IN_ORDER = (
    "clock proxy -60", "slow-disk client 1000000", "slow-disk client 0", "freeze proxy", "unfreeze proxy",
    "failing-disk client read", "failing-disk client",
    "latency client 50", "unplug line", "plug line", "loss client 5", "bandwidth line 800", "mtu line 1400",
    "only-ip line 4", "swallow line 1400",
    "line-address", "nat-rebind", "dns-lie elsewhere.example 192.0.2.66", "dns-down", "acme-error closed today",
    "acme-down", "mend", "full-disk client", "power-cut client", "power-on client", "reset proxy", "mend",
)  # fmt: skip


@pytest.mark.complaints("disk error", "file system error")
def test_every_fault_can_be_typed_and_what_can_be_mended_is(
    bed: Session, pair: Pair, stranger: Stranger, alice: Person, capfd: pytest.CaptureFixture[str]
) -> None:
    assert {line.split()[0] for line in FAULTS_IN_ORDER} == set(FAULTS)
    prompt = Prompt(bed, pair, {})
    for line in FAULTS_IN_ORDER[: FAULTS_IN_ORDER.index("mend") + 1]:
        prompt.onecmd(f"fault {line}")
    prompt.onecmd("client dd if=/dev/vda of=/dev/null bs=4K count=1 iflag=direct skip=700 status=none && echo sound")
    stranger.send_persistently(alice.address, "after all that", "Sound again.\n")
    assert alice.receive("after all that").text == "Sound again.\n"
    for line in FAULTS_IN_ORDER[FAULTS_IN_ORDER.index("mend") + 1 :]:
        prompt.onecmd(f"fault {line}")
    said = capfd.readouterr().out

    assert "error:" not in said
    assert "sound" in said
    assert all(machine.running for machine in pair.machines.values())


@pytest.mark.settled
def test_packets_and_the_screen_can_be_kept(bed: Session, pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    prompt = Prompt(bed, pair, {})
    for line in ("pcap proxy", "send for the record", "pcap proxy", "screenshot client"):
        prompt.onecmd(line)
    *_, packets, screen = map(Path, capfd.readouterr().out.split())

    assert packets.read_bytes()[:4] == b"\xd4\xc3\xb2\xa1"  # pcap, little endian, microseconds
    assert b"ehlo mx.stranger.example" in packets.read_bytes()  # as smtplib writes it
    assert screen.read_bytes().startswith(b"\x89PNG")


@pytest.mark.settled
def test_a_person_at_the_machine_has_a_real_terminal(client: Machine) -> None:
    ours, its = os.openpty()
    termios.tcsetwinsize(its, (40, 100))
    thread = threading.Thread(target=terminal.attach, args=(client.hardware.terminal_socket, its, its))
    thread.start()
    said = b""

    def read_until(awaited: bytes) -> None:
        nonlocal said
        deadline = time.monotonic() + client.patience.seconds(10)
        while awaited not in said and (left := deadline - time.monotonic()) > 0:
            if select.select([ours], [], [], left)[0]:
                said += os.read(ours, 1024)

    try:
        read_until(b"# ")  # a person waits for the prompt: until then the terminal echoes by itself
        os.write(ours, b"tty; stty size; echo $$; id -un\r")
        read_until(b"\r\nroot\r\n")
    finally:
        os.write(ours, terminal.LEAVE)
        thread.join(10)

    assert not thread.is_alive()
    assert b"/dev/hvc0" in said
    assert b"40 100" in said


@pytest.mark.settled
def test_files_go_in_and_come_out_as_they_were(client: Machine, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(3 * 2**20 + 1))
    source.chmod(0o640)

    client.copy_to(source, "/var/tmp/copied")
    client.copy_from("/var/tmp/copied", back)

    assert back.read_bytes() == source.read_bytes()
    assert client.succeed("stat -c %a /var/tmp/copied").strip() == "640"
    client.wait_for_file("/var/tmp/copied", within_s=5)
    client.wait_until_fails("test -e /var/tmp/never", within_s=5)
    client.wait_for_closed_port(9, within_s=5)


@pytest.mark.settled
def test_what_a_machine_says_is_awaited_where_it_says_it(client: Machine) -> None:
    client.systemctl("is-active sysinit.target")
    client.succeed("(sleep 1; logger -t bed-test 'the word is 4711') >/dev/null 2>&1 &")

    assert client.wait_for_journal(r"the word is \d+", within_s=10) == "the word is 4711"
