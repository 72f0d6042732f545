"""An image in cells: together they are the disk, whatever its size, and each says how dd gets at it."""

from pathlib import Path

import pytest

from imagebuilder.shipping.cells import cells
from imagebuilder.shipping.provision import MARGIN_BYTES, Provisioned
from imagebuilder.topology import Role
from tests.unit.images import MIB, SIZE, small_image

CELL_BYTES = 4 * MIB


@pytest.fixture(autouse=True)
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the small image into more than two."""
    monkeypatch.setattr("imagebuilder.shipping.cells.CELL_BYTES", CELL_BYTES)


@pytest.mark.parametrize("disk_bytes", [None, SIZE, SIZE + 512, SIZE + MIB // 2, SIZE + 9 * MIB + 512, 3 * SIZE])
def test_all_cells_together_are_the_disk(tmp_path: Path, disk_bytes: int | None) -> None:
    provisioned = Provisioned(small_image(tmp_path, Role.PROXY), b"SECRET" * 1000, disk_bytes)
    whole, found = bytearray(provisioned.size_bytes), bytearray(provisioned.size_bytes)
    for region in provisioned.regions():
        whole[region.offset : region.end] = region.data

    covered = 0
    for cell in cells(provisioned):
        assert cell.offset >= covered
        assert cell.length <= CELL_BYTES
        covered = cell.offset + cell.length
        found[cell.offset : covered] = cell.content
        block, first, count = map(int, cell.place.blocks.split())
        assert (block * first, block * count, block % 512) == (cell.offset, cell.length, 0)

    assert found == whole
    assert covered == provisioned.size_bytes


def test_the_first_cell_is_what_comes_last_and_holes_are_known_as_such(tmp_path: Path) -> None:
    first, second, *rest = cells(Provisioned(small_image(tmp_path, Role.PROXY), b"SECRET"))

    assert (first.offset, first.length) == (0, MARGIN_BYTES)
    assert (second.offset, second.length) == (MARGIN_BYTES, CELL_BYTES - MARGIN_BYTES)
    assert [cell.place.empty for cell in rest] == [True, False, False, True, False]
