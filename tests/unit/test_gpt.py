"""The table of partitions: found, fitted to a larger disk, and judged by a program that is not ours."""

import subprocess
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.gpt import HEAD_BYTES, SECTOR_BYTES, TABLE_BYTES, Span, fitted, spans
from tests.unit.images import PARTITIONS, SIZE, table

LARGE = SIZE + 7 * 2**20 + 512
HEAD, TAIL = table(SIZE)
NAMES = [name for name, *_ in PARTITIONS]


def seen_by_partx(path: Path) -> list[str]:
    """Return the names of the partitions that util-linux finds on the disk *path*."""
    argv = ["partx", "--show", "--output=NAME", "--noheadings", str(path)]
    listed = subprocess.run(argv, capture_output=True, check=False)
    return listed.stdout.decode().split()


def test_partitions_are_found_by_the_table() -> None:
    assert spans(HEAD) == tuple(Span(name, offset, length) for name, _, offset, length in PARTITIONS)


def test_a_table_that_fits_stays_as_it_is() -> None:
    assert fitted(HEAD, SIZE) == (HEAD, TAIL)


def test_a_fitted_table_is_that_of_a_disk_of_that_size() -> None:
    assert fitted(HEAD, LARGE) == table(LARGE)


def test_util_linux_reads_a_fitted_table_by_its_first_copy_and_by_its_second_alone(tmp_path: Path) -> None:
    head, tail = fitted(HEAD, LARGE)
    disk = tmp_path / "disk"

    disk.write_bytes(head.ljust(LARGE, b"\0"))
    assert seen_by_partx(disk) == NAMES
    damaged = head[:SECTOR_BYTES].ljust(HEAD_BYTES, b"\0")
    disk.write_bytes(damaged.ljust(LARGE - TABLE_BYTES, b"\0") + tail)
    assert seen_by_partx(disk) == NAMES
    disk.write_bytes(damaged.ljust(LARGE, b"\0"))
    assert seen_by_partx(disk) == []


@pytest.mark.parametrize("place", [SECTOR_BYTES, SECTOR_BYTES + 30, 2 * SECTOR_BYTES + 5])
def test_a_damaged_table_is_refused(place: int) -> None:
    head = bytearray(HEAD)
    head[place] ^= 0xFF

    with pytest.raises(ImagebuilderError, match="damaged"):
        spans(bytes(head))


def test_a_disk_without_a_table_is_refused() -> None:
    with pytest.raises(ImagebuilderError, match="no table of partitions"):
        spans(bytes(HEAD_BYTES))
