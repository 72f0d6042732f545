"""Files in layers, on whatever file system the tests have."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.build import pieces
from imagebuilder.build.pieces import BLOCK_BYTES, copy_data, differing, extents, lay_over, write_pieces

MIB = 2**20


def sparse(path: Path, size: int, content: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in content.items():
            file.seek(offset)
            file.write(data)
    return path


@pytest.fixture(params=["as it is", "as where nothing can be shared"])
def whatever_can_be_shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "as it is":
        monkeypatch.setattr(pieces, "_cloned", lambda *_: False)


@pytest.mark.usefixtures("whatever_can_be_shared")
def test_a_copy_is_the_same_at_its_place_and_as_sparse(tmp_path: Path) -> None:
    chance = random.Random(1)
    data = {0: chance.randbytes(MIB + 17), 8 * MIB: chance.randbytes(300_000)}
    source = sparse(tmp_path / "source", 16 * MIB, data)

    with sparse(tmp_path / "target", 20 * MIB, {}).open("r+b") as target:
        copy_data(source, target.fileno(), 4 * MIB)
        holes = 20 * MIB - sum(end - start for start, end in extents(target.fileno()))

    assert (tmp_path / "target").read_bytes() == bytes(4 * MIB) + source.read_bytes()
    if source.stat().st_blocks * 512 < 8 * MIB:  # the file system of the tests knows holes
        assert holes > 16 * MIB


blocks = st.lists(st.integers(0, 3), max_size=100)


@settings(deadline=None)
@given(blocks, blocks, st.integers(0, BLOCK_BYTES - 1))
def test_what_differs_laid_over_the_old_gives_the_new(
    tmp_path_factory: pytest.TempPathFactory, old: list[int], new: list[int], odd: int
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    was = b"".join(bytes([value]) * BLOCK_BYTES for value in old)
    now = b"".join(bytes([value]) * BLOCK_BYTES for value in [*new, *old[len(new) :]]) + b"x" * odd
    (folder / "old").write_bytes(was)
    (folder / "new").write_bytes(now)

    found = list(differing(folder / "old", folder / "new"))
    write_pieces(folder, found)
    with (folder / "old").open("r+b") as file:
        lay_over(folder, file.fileno())

    assert (folder / "old").read_bytes() == now
    changed = sum(a != b for a, b in zip(old, new, strict=False)) + max(0, len(new) - len(old))
    assert -(-sum(len(piece) for _, piece in found) // BLOCK_BYTES) == changed + bool(odd)


def test_a_failure_to_share_that_is_none_of_the_file_system_is_told(tmp_path: Path) -> None:
    source = sparse(tmp_path / "source", MIB, {0: b"x" * MIB})
    reading = os.open(source, os.O_RDONLY)

    with pytest.raises(OSError, match="Bad file descriptor"):
        copy_data(source, reading)
    os.close(reading)
