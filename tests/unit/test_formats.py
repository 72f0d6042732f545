"""What programs draw by lot or read off the clock is settled, whatever it was."""

import struct

import pytest

from imagebuilder.shipping.formats import FOOTER, Format, format_of, settled_descriptor, settled_footer
from imagebuilder.shipping.objects import shown

SHA256 = "8f" * 32


@pytest.mark.parametrize("drawn", [b"fa", b"0", b"deadbee", b"12345678"])
def test_a_vmdk_has_the_same_identifier_however_many_digits_were_drawn(drawn: bytes) -> None:
    text = b"# Disk DescriptorFile\nversion=1\nCID=" + drawn + b"\nparentCID=ffffffff\n"

    assert settled_descriptor(text, SHA256) == text.replace(b"\nCID=" + drawn, b"\nCID=0f8f8f8f")


def test_a_vhd_has_the_same_footer_at_any_time_and_its_sum_fits() -> None:
    size = 2**30

    def drawn(time: int, uuid: bytes) -> bytes:
        fields = (
            b"conectix",
            2,
            0x10000,
            2**64 - 1,
            time,
            b"qem2",
            0x50003,
            b"Wi2k",
            size,
            size,
            7,
            2,
            99,
            uuid,
            0,
            b"",
        )
        return FOOTER.pack(*fields)

    first, second = (settled_footer(drawn(*each), SHA256) for each in ((1, b"a" * 16), (2**31, b"b" * 16)))

    assert first == second
    (found,) = struct.unpack_from(">I", first, 64)
    assert found == ~(sum(first) - sum(first[64:68])) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("/a/proxy.raw", Format.RAW),
        ("proxy.raw.zst", Format.RAW_ZST),
        ("P.QCOW2", Format.QCOW2),
        ("p.vmdk", Format.VMDK),
        ("p.vhd", Format.VHD),
        ("p.img", None),
        ("raw", None),
    ],
)
def test_the_end_of_a_name_says_the_form(name: str, form: Format | None) -> None:
    assert format_of(name) is form


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://h.example/p.raw?X-Amz-Signature=secret#x", "https://h.example/p.raw"),
        ("ftp://me:secret@h.example:21/p.raw", "ftp://me@h.example:21/p.raw"),
        ("s3://bucket/p.raw", "s3://bucket/p.raw"),
    ],
)
def test_what_logs_in_is_never_shown(url: str, seen: str) -> None:
    assert shown(url) == seen
