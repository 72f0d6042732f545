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
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
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
    assert "loss proxy|client|line PERCENT" in said


def test_packets_and_the_screen_can_be_kept(bed: Session, pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    prompt = Prompt(bed, pair, {})
    for line in ("pcap proxy", "send for the record", "pcap proxy", "screenshot client"):
        prompt.onecmd(line)
    *_, packets, screen = map(Path, capfd.readouterr().out.split())

    assert packets.read_bytes()[:4] == b"\xd4\xc3\xb2\xa1"  # pcap, little endian, microseconds
    assert b"ehlo mx.stranger.example" in packets.read_bytes()  # as smtplib writes it
    assert screen.read_bytes().startswith(b"\x89PNG")


def test_a_person_at_the_machine_has_a_real_terminal(client: Machine) -> None:
    ours, its = os.openpty()
    termios.tcsetwinsize(its, (40, 100))
    thread = threading.Thread(target=terminal.attach, args=(client.hardware.terminal_socket, its, its))
    thread.start()
    said = b""
    try:
        os.write(ours, b"tty; stty size; echo $$; id -un\r")
        deadline = time.monotonic() + client.patience.seconds(10)
        while b"\r\nroot\r\n" not in said and (left := deadline - time.monotonic()) > 0:
            if select.select([ours], [], [], left)[0]:
                said += os.read(ours, 1024)
    finally:
        os.write(ours, terminal.LEAVE)
        thread.join(10)

    assert not thread.is_alive()
    assert b"/dev/hvc0" in said
    assert b"40 100" in said


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


def test_what_a_machine_says_is_awaited_where_it_says_it(client: Machine) -> None:
    client.systemctl("is-active sysinit.target")
    client.succeed("(sleep 1; logger -t bed-test 'the word is 4711') >/dev/null 2>&1 &")

    assert client.wait_for_journal(r"the word is \d+", within_s=10) == "the word is 4711"
