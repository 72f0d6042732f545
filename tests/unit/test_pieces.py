"""Files in layers, on whatever file system the tests have."""

import errno
import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder.build.pieces import (
    BLOCK_BYTES,
    Span,
    data_of,
    differing,
    extents,
    overlaid,
    pieces_in,
    sha256_of_spans,
    write_pieces,
    write_spans,
)

MIB = 2**20


def sparse(path: Path, size: int, content: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in content.items():
            file.seek(offset)
            file.write(data)
    return path


def refuse(*_: object) -> int:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.fixture(params=["as it is", "as between two file systems"])
def whatever_the_kernel_copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "as it is":
        monkeypatch.setattr(os, "copy_file_range", refuse)


@pytest.mark.usefixtures("whatever_the_kernel_copies")
def test_a_copy_is_the_same_at_its_place_and_as_sparse(tmp_path: Path) -> None:
    chance = random.Random(1)
    data = {0: chance.randbytes(MIB + 17), 8 * MIB: chance.randbytes(300_000)}
    source = sparse(tmp_path / "source", 16 * MIB, data)

    with sparse(tmp_path / "target", 20 * MIB, {}).open("r+b") as target:
        write_spans(data_of(source, 4 * MIB), target.fileno())
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
        write_spans(pieces_in(folder), file.fileno())

    assert (folder / "old").read_bytes() == now
    changed = sum(a != b for a, b in zip(old, new, strict=False)) + max(0, len(new) - len(old))
    assert -(-sum(len(piece) for _, piece in found) // BLOCK_BYTES) == changed + bool(odd)


def test_a_failure_that_is_none_of_the_file_system_is_told(tmp_path: Path) -> None:
    source = sparse(tmp_path / "source", MIB, {0: b"x" * MIB})
    reading = os.open(source, os.O_RDONLY)

    with pytest.raises(OSError, match="Bad file descriptor"):
        write_spans(data_of(source), reading)
    os.close(reading)


runs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=8)
"""Gaps and lengths."""


def spans_in(layer: list[tuple[int, int]], path: Path) -> tuple[Span, ...]:
    found, position, place = [], 0, 0
    for gap, length in layer:
        found.append(Span(position + gap, position + gap + length, path, place))
        position, place = position + gap + length, place + length
    return tuple(found)


@settings(deadline=None)
@given(st.lists(runs, min_size=1, max_size=4), st.integers(0, 20))
def test_layers_one_over_the_other_are_written_and_hashed_as_if_each_were_written_over_the_last(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[tuple[int, int]]], more: int
) -> None:
    folder, chance = tmp_path_factory.mktemp("layers"), random.Random(1)
    seen: tuple[Span, ...] = ()
    expected = bytearray()
    for number, layer in enumerate(layers):
        path = folder / str(number)
        content = chance.randbytes(sum(length for _, length in layer))
        path.write_bytes(content)
        spans = spans_in(layer, path)
        for start, end, _, place in spans:
            expected += bytes(max(0, end - len(expected)))
            expected[start:end] = content[place : place + end - start]
        seen = overlaid(seen, spans)
    expected += bytes(more)

    with (folder / "whole").open("wb") as file:
        file.truncate(len(expected))
        write_spans(seen, file.fileno())

    assert (folder / "whole").read_bytes() == expected
    assert sha256_of_spans(seen, len(expected)) == hashlib.sha256(expected).hexdigest()
