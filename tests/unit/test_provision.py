"""An image with a host's secrets, read in regions: what is written is the image and nothing old is left in between."""

import itertools
from pathlib import Path

import pytest

from imagebuilder.build.image import Image
from imagebuilder.gpt import HEAD_BYTES, TABLE_BYTES, fitted
from imagebuilder.shipping.provision import BLOCK_BYTES, MARGIN_BYTES, PIECE_BYTES, Provisioned
from imagebuilder.topology import Role
from tests.unit.images import SECRETS, SIZE, small_image

SECRET = b"SECRET" * 100


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return small_image(tmp_path, Role.PROXY)


def whole(provisioned: Provisioned, filler: bytes = b"\0") -> bytes:
    """Return the disk that the regions make of one full of *filler*."""
    disk = bytearray(filler * provisioned.size_bytes)
    for region in provisioned.regions():
        disk[region.offset : region.end] = region.data
    return bytes(disk)


def test_without_a_disk_only_the_secrets_differ_from_the_image(image: Image) -> None:
    made, plain = whole(Provisioned(image, SECRET)), image.path.read_bytes()

    assert made[SECRETS : SECRETS + len(SECRET)] == SECRET
    assert made[:SECRETS] == plain[:SECRETS]
    assert made[SECRETS + len(SECRET) :] == plain[SECRETS + len(SECRET) :]


def test_on_a_larger_disk_the_table_is_at_both_its_ends_and_no_longer_at_the_images(image: Image) -> None:
    plain, large = image.path.read_bytes(), SIZE + 5 * 2**20
    first, last = fitted(plain[:HEAD_BYTES], large)

    made = whole(Provisioned(image, SECRET, large))

    assert made[:HEAD_BYTES] == first
    assert made[-TABLE_BYTES:] == last
    assert made[SIZE - TABLE_BYTES : SIZE] == bytes(TABLE_BYTES)
    assert made[HEAD_BYTES:SECRETS] == plain[HEAD_BYTES:SECRETS]


def test_older_secrets_and_marks_at_both_ends_are_overwritten_whatever_the_disk_held(image: Image) -> None:
    large = SIZE + 5 * 2**20

    made = whole(Provisioned(image, SECRET, large), filler=b"old!"[:1])

    assert made[SECRETS + len(SECRET) : SECRETS + image.secrets_size].strip(b"\0") == b""
    assert made[HEAD_BYTES:MARGIN_BYTES].strip(b"\0") == b""
    assert made[-MARGIN_BYTES:-TABLE_BYTES].strip(b"\0") == b""


def test_a_disk_hardly_larger_than_the_image_keeps_the_images_end(image: Image) -> None:
    large = SIZE + 2 * TABLE_BYTES + 512

    made = whole(Provisioned(image, SECRET, large))

    assert made[-TABLE_BYTES:] == fitted(image.path.read_bytes()[:HEAD_BYTES], large)[1]


def test_regions_ascend_in_blocks_of_bounded_size_and_leave_out_the_holes(image: Image) -> None:
    regions = list(Provisioned(image, SECRET, SIZE + 5 * 2**20).regions())

    assert all(region.offset % BLOCK_BYTES == 0 and 0 < len(region.data) <= PIECE_BYTES for region in regions)
    assert all(one.end <= other.offset for one, other in itertools.pairwise(regions))
    assert sum(len(region.data) for region in regions) == Provisioned(image, SECRET, SIZE + 5 * 2**20).data_bytes()
    if image.path.stat().st_blocks * 512 < SIZE:  # the file system of the tests knows holes
        assert sum(len(region.data) for region in regions) < SIZE


def test_neither_repr_nor_str_shows_a_secret(image: Image) -> None:
    provisioned = Provisioned(image, SECRET)

    assert "SECRET" not in repr(provisioned)
    assert not any("SECRET" in repr(region) for region in provisioned.regions())
