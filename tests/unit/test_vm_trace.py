"""What is read from headers, journals, consoles and systemd's answers."""

import email
import email.policy
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import pytest

from imagebuilder.runs.record import Message
from imagebuilder.vm.boot_chart import boot_chart
from imagebuilder.vm.complaints import STARVED, Consoles, complaint_in
from imagebuilder.vm.recording import with_log
from imagebuilder.vm.trace import authentication, hop, hops

AT = datetime(2026, 11, 22, 21, 52, 52, tzinfo=UTC)
# As the machines wrote them.
BY_HARAKA = """from mx.stranger.example (mx.stranger.example [198.19.1.25])
\tby mail.example.org (Haraka) with ESMTPS id 6AE7B297-D2D5-4D08-9D01-8FA7DF22F682.1
\tenvelope-from <someone@stranger.example>
\ttls TLS_AES_256_GCM_SHA384;
\tSun, 22 Nov 2026 21:52:52 +0000"""
BY_POSTFIX = """from mail.example.org (mail.example.org [IPv6:2001:2:0:1::10])
 (using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)
 key-exchange x25519 server-signature ECDSA (prime256v1) server-digest SHA256)
 (No client certificate requested) by mx.stranger.example (Postfix) with ESMTPS id C98A261
 for <someone@stranger.example>; Sun, 22 Nov 2026 21:52:52 +0000 (UTC)"""
SUBMITTED = "by mail.example.org (Postfix) with ESMTPSA id 9C71D1FC3B; Sun, 22 Nov 2026 21:52:52 +0000 (UTC)"
JOURNAL = """\
2026-11-22T21:53:23.712880+00:00 postfix/submission/smtpd[972]: Anonymous TLS connection established from \
roaming.user.example[2001:2:0:ff02::4d]: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)
2026-11-22T21:53:29.642792+00:00 postfix/submission/smtpd[972]: 9C71D1FC3B: \
client=roaming.user.example[2001:2:0:ff02::4d], sasl_method=PLAIN, sasl_username=alice@example.org
"""


def test_a_hop_tells_who_whence_how_and_when() -> None:
    told = hop(BY_HARAKA)

    assert (told.by, told.software, told.from_name) == ("mail.example.org", "Haraka", "mx.stranger.example")
    assert (told.from_address, told.protocol, told.tls) == ("198.19.1.25", "ESMTPS", "TLS_AES_256_GCM_SHA384")
    assert told.at == AT


def test_a_hop_of_postfix_tells_version_and_cipher() -> None:
    told = hop(BY_POSTFIX)

    assert (told.by, told.from_address) == ("mx.stranger.example", "2001:2:0:1::10")
    assert told.tls == "TLSv1.3 TLS_AES_256_GCM_SHA384"


@pytest.mark.parametrize("field", ["", "nonsense", "from x", "; not a date", "by; Sun, 99 Nov 2026 00:00:00 +0000"])
def test_a_field_that_tells_nothing_is_kept_as_it_stands(field: str) -> None:
    assert hop(field).text == field
    assert hop(field).at is None


def test_hops_are_told_from_the_first_to_the_last() -> None:
    message = EmailMessage()
    message["Received"] = "by last; x"
    message["Received"] = "by first; x"

    assert [each.by for each in hops(message, ["by reader; x"])] == ["first", "last", "reader"]


def test_what_receivers_made_of_a_message_is_read_from_its_header() -> None:
    message = email.message_from_string(
        "Authentication-Results: mail.example.org; dkim=pass header.d=stranger.example;\n"
        " spf=softfail smtp.mailfrom=someone@stranger.example\n"
        "Authentication-Results: this is none\n\nx",
        policy=email.policy.default,
    )
    assert isinstance(message, EmailMessage)
    found = {each.method: (each.result, each.detail, each.by) for each in authentication(message)}

    assert found["dkim"] == ("pass", "header.d=stranger.example", "mail.example.org")
    assert found["spf"][0] == "softfail"


def test_the_hop_of_a_submission_is_completed_by_the_journal() -> None:
    hidden = hop(SUBMITTED)
    message = Message(subject="s", sender="a", recipient="b", seconds=1, hops=(hidden, hop(BY_POSTFIX)))
    (completed,) = with_log([message], JOURNAL)

    assert hidden.from_address == ""
    assert completed.hops[0].from_address == "2001:2:0:ff02::4d"
    assert completed.hops[0].login == "alice@example.org"
    assert completed.hops[0].tls == "TLSv1.3 TLS_AES_256_GCM_SHA384"
    assert completed.hops[1] == hop(BY_POSTFIX)


SYSTEMD = """\
FirmwareTimestampMonotonic=2500000
InitRDTimestampMonotonic=900000
UserspaceTimestampMonotonic=4000000
FinishTimestampMonotonic=20000000

Id=postfix.service
InactiveExitTimestampMonotonic=9000000
ActiveEnterTimestampMonotonic=12500000
InactiveEnterTimestampMonotonic=0

Id=once.service
InactiveExitTimestampMonotonic=5000000
ActiveEnterTimestampMonotonic=0
InactiveEnterTimestampMonotonic=6000000

Id=later.service
InactiveExitTimestampMonotonic=30000000
ActiveEnterTimestampMonotonic=31000000
InactiveEnterTimestampMonotonic=0

Id=never.service
InactiveExitTimestampMonotonic=0
ActiveEnterTimestampMonotonic=0
InactiveEnterTimestampMonotonic=0

Id=multi-user.target
InactiveExitTimestampMonotonic=19000000
ActiveEnterTimestampMonotonic=19000000
InactiveEnterTimestampMonotonic=0
"""


def test_a_boot_chart_has_what_took_part_in_the_boot_and_the_milestones() -> None:
    chart = boot_chart(SYSTEMD)

    assert (chart.firmware_s, chart.initrd_s, chart.userspace_s, chart.finished_s) == (2.5, 0.9, 4.0, 20.0)
    starts = [(unit.name, unit.began_s, unit.ready_s) for unit in chart.units]
    assert starts == [
        ("once.service", 5.0, 6.0),
        ("postfix.service", 9.0, 12.5),
        ("multi-user.target", 19.0, 19.0),
    ]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[  469.285103] device-mapper: verity: 254:3: data block 34876 is corrupted", "damaged root"),
        ("[   12.1] Kernel panic - not syncing: Attempted to kill init!", "kernel panic"),
        ("[FAILED] Failed to start postfix.service - Postfix.", "failed unit"),
        ("watchdog: BUG: soft lockup - CPU#0 stuck for 26s!", STARVED),
        ("systemd[1]: Found ordering cycle on postfix.service/start", "ordering cycle"),
        ("Mail host. There is no password that opens it.", None),
        ("[    0.020000] ..MP-BIOS bug: 8254 timer not connected to IO-APIC", None),
    ],
)
def test_a_console_is_read_for_what_healthy_machines_do_not_say(line: str, kind: str | None) -> None:
    assert complaint_in(line) == kind


def test_each_complaint_is_told_once_and_counts_unless_it_is_expected(tmp_path: Path) -> None:
    file = tmp_path / "proxy.console.txt"
    file.write_text("hello\r\n\x1b[0;31mKernel panic - not syncing\x1b[0m\r\nI/O err")
    consoles = Consoles(tmp_path, emulated=True)

    (first,) = consoles.new_complaints("test_a")
    assert (first.machine, first.kind, first.counted) == ("proxy", "kernel panic", True)
    with file.open("a") as more:
        more.write("or, dev vda\nrcu: INFO: rcu_preempt detected stalls\n")
    disk, starved = consoles.new_complaints("test_b", expected=("disk error",))
    assert (disk.kind, disk.counted) == ("disk error", False)
    assert (starved.kind, starved.counted) == (STARVED, False)
    assert consoles.new_complaints("test_c") == ()
