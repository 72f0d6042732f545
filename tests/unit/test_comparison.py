import io
import shutil
import tarfile
from pathlib import Path
from uuid import UUID

import pytest

from imagebuilder.comparison import differences, partitions
from imagebuilder.comparison.causes import (
    CHANCE,
    CONSEQUENCE,
    ORDER,
    OWNER,
    PATH,
    TIME,
    UMASK,
    UNKNOWN,
    ZONE,
    cause,
    cause_of_contents,
    excerpt,
)
from imagebuilder.comparison.diffoscope import explained
from imagebuilder.comparison.entries import Entry, Kind
from imagebuilder.comparison.readers import read_cpio, read_tar
from imagebuilder.errors import ImagebuilderError
from imagebuilder.tools import Tools
from tests.unit.images import table

KIND = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
MIB = 2**20
NO_TOOLS = Tools(Path("/nonexistent"))


def disk(path: Path, contents: dict[str, bytes], *, boot: bytes = b"") -> Path:
    """Write a disk with a partition of 1 MiB per label."""
    size = (len(contents) + 2) * MIB
    head, tail = table(size, [(label, KIND, number * MIB, MIB) for number, label in enumerate(contents, 1)])
    with path.open("wb") as file:
        file.truncate(size)
        file.write(boot + head[len(boot) :])
        for number, content in enumerate(contents.values(), 1):
            file.seek(number * MIB)
            file.write(content)
        file.seek(size - len(tail))
        file.write(tail)
    return path


def file(content: bytes, *, mode: int = 0o644, owner: tuple[int, int] = (0, 0), mtime: int = 0) -> Entry:
    return Entry(Kind.FILE, len(content), content.hex(), mode, owner, mtime, read=lambda: content)


def test_a_file_without_a_partition_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(2**20))

    with pytest.raises(ImagebuilderError, match="no table of partitions"):
        partitions(tmp_path / "a")


def test_the_digest_of_a_partition_is_that_of_its_bytes_alone(tmp_path: Path) -> None:
    one = partitions(disk(tmp_path / "a", {"esp": b"1", "root": b"same"}))
    other = partitions(disk(tmp_path / "b", {"esp": b"2", "root": b"same"}))

    assert one[0].sha256 != other[0].sha256
    assert one[1].sha256 == other[1].sha256


def test_equal_disks_have_no_differences(tmp_path: Path) -> None:
    contents = {"esp": b"boot", "root": b"files"}

    assert not differences(disk(tmp_path / "a", contents), disk(tmp_path / "b", contents), NO_TOOLS)


def test_the_partition_that_differs_is_named_and_no_other(tmp_path: Path) -> None:
    a = disk(tmp_path / "a", {"esp": b"boot", "root": b"files"})
    b = disk(tmp_path / "b", {"esp": b"boot", "root": b"fires"})

    (found,) = differences(a, b, NO_TOOLS)

    assert found.place == ("root",)
    assert found.first != found.second


def test_a_hash_tree_differs_as_a_consequence(tmp_path: Path) -> None:
    a, b = (disk(tmp_path / name, {"v": b"verity\0\0" + name.encode()}) for name in "ab")

    assert differences(a, b, NO_TOOLS)[0].cause == CONSEQUENCE


def test_a_missing_partition_and_bytes_outside_of_all_are_told(tmp_path: Path) -> None:
    whole = disk(tmp_path / "a", {"esp": b"boot", "root": b"files"})
    less = disk(tmp_path / "b", {"esp": b"boot"})
    booting = disk(tmp_path / "c", {"esp": b"boot", "root": b"files"}, boot=b"GRUB")

    assert [d.place for d in differences(whole, less, NO_TOOLS)] == [("root",), ("partition table",)]
    assert [d.place for d in differences(whole, booting, NO_TOOLS)] == [("outside of the partitions",)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (b"built 2026-11-22 21:40\n", b"built 2025-01-02 03:04\n", TIME),
        (b"made at 1795227046\n", b"made at 1735693200\n", TIME),
        (b"b\na\nc\n", b"a\nb\nc\n", ORDER),
        (b"cd /srv/one/work; make", b"cd /home/two/work; make", PATH),
        (b"in UTC", b"in JST", ZONE),
        (b"root:$y$j9T$abcdefghijklmnop:", b"root:$y$j9T$qrstuvwxyzabcdefgh:", CHANCE),
        (b"ro roothash=" + b"a" * 64, b"ro roothash=" + b"b" * 64, CONSEQUENCE),
        (b"max 3\n", b"max 4\n", UNKNOWN),
    ],
)
def test_the_cause_is_guessed_from_the_contents(first: bytes, second: bytes, expected: str) -> None:
    assert cause_of_contents(first, second) == expected


def test_the_cause_is_guessed_from_mode_owner_and_date() -> None:
    assert cause(file(b"x", mode=0o644), file(b"x", mode=0o600)) == UMASK
    assert cause(file(b"x", mode=0o611), file(b"x", mode=0o166)) == UNKNOWN
    assert cause(file(b"x", owner=(0, 0)), file(b"x", owner=(1000, 1000))) == OWNER
    assert cause(file(b"x", mtime=1), file(b"x", mtime=2)) == TIME


def test_an_excerpt_shows_the_first_line_that_differs() -> None:
    assert excerpt(file(b"a\nb 1\nc\n"), file(b"a\nb 2\nd\n")) == ("b 1", "b 2")
    assert excerpt(file(b"a\n"), file(b"a\nmore\n")) == ("", "more")
    assert excerpt(file(b"\0a"), file(b"\0b")) == ("", "")
    long, longer = b"x" * 500 + b"1", b"x" * 500 + b"2"
    assert excerpt(file(long), file(longer))[0].endswith("x1")


def newc(name: str, content: bytes = b"", mode: int = 0o100644, inode: int = 1) -> bytes:
    """Return an entry of a cpio archive."""
    numbers = (inode, mode, 0, 0, 1, 5, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    head += bytes(-len(head) % 4)
    return head + content + bytes(-len(content) % 4)


def test_cpio_archives_are_read_one_behind_the_other() -> None:
    archive = newc("kernel", b"early") + newc("TRAILER!!!") + bytes(40) + newc("init", b"run", 0o100755)

    found = read_cpio(archive + newc("etc", mode=0o40700) + newc("TRAILER!!!"))

    assert list(found) == ["kernel", "init", "etc"]
    assert (found["init"].mode, found["init"].read(), found["etc"].kind) == (0o755, b"run", Kind.FOLDER)


def test_the_order_of_an_archive_is_a_difference() -> None:
    one, other = (read_cpio(newc("a", inode=i) + newc("TRAILER!!!")) for i in (1, 2))

    assert one != other
    assert cause(one["a"], other["a"]) == ORDER


def test_a_tar_archive_gives_content_modes_and_owners(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("./etc/secret")
        member.size, member.mode, member.uid, member.gid = 3, 0o4640, 7, 8
        tar.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("./etc/link")
        link.type, link.linkname = tarfile.SYMTYPE, "secret"
        tar.addfile(link)

    found = read_tar(tmp_path / "x.tar")

    assert (found["etc/secret"].mode, found["etc/secret"].owner, found["etc/secret"].read()) == (0o4640, (7, 8), b"abc")
    assert (found["etc/link"].kind, found["etc/link"].read()) == (Kind.LINK, b"secret")


def test_diffoscope_is_asked_about_both_versions_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/diffoscope"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor last; do first=$before; before=$last; done\ncat "$first" "$last"; exit 1\n')
    program.chmod(0o755)

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    without = "" if shutil.which("diffoscope") else explained(file(b"1\n"), file(b"2\n"), "etc/x", tmp_path)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    assert without == ""
    assert explained(file(b"1\n"), file(b"2\n"), "etc/x", tmp_path) == "1\n2"
    assert explained(file(b"1\n"), None, "etc/x", tmp_path) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
