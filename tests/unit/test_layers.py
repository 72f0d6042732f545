"""Disks put together from layers, and how many of them the store keeps."""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from imagebuilder.build import image as image_module
from imagebuilder.build.base import Base
from imagebuilder.build.frame import STAND_IN, Frame, Layout, named, places
from imagebuilder.build.image import image_of, retire_images
from imagebuilder.build.pieces import write_pieces
from imagebuilder.errors import ImagebuilderError
from imagebuilder.gpt import HEAD_BYTES, identified, lines
from imagebuilder.plan import Recorded
from imagebuilder.store.folder import Store, Used
from imagebuilder.topology import Role
from tests.unit.images import MIB, PARTITIONS, SIZE, table

ROOT, VERITY = 8 * MIB, 18 * MIB
HASHES = (MIB + 100, 3 * MIB + 4090)
"""The second goes over the end of a block."""
ROOT_HASH = hashlib.sha256(b"some root").hexdigest()
BASE, TREE = b"base" * 5000, b"tree" * 3000


def keys(number: int, role: Role = Role.PROXY) -> dict[str, str]:
    steps = {f"{role}-frame": f"{1:032x}", f"{role}-base": f"{2:032x}"}
    return steps | {f"{role}-{step}": f"{number:032x}" for step in ("difference", "image")}


def with_layers(store: Store, number: int) -> dict[str, str]:
    """Put the layers of a small disk into *store* and return the keys of its steps."""
    steps = keys(number)

    def frame(folder: Path) -> None:
        head, tail = table(SIZE)
        with Frame(folder).disk.open("wb") as file:
            file.truncate(SIZE)
            for offset, content in {
                0: head,
                SIZE - len(tail): tail,
                **dict.fromkeys(HASHES, STAND_IN.encode()),
            }.items():
                file.seek(offset)
                file.write(content)
        hashes = tuple(places(Frame(folder).disk, STAND_IN.encode()))
        layout = Layout(SIZE, ROOT, VERITY - ROOT, VERITY, 20 * MIB, 2 * MIB, hashes)
        (folder / "layout.json").write_text(json.dumps(vars(layout)))

    def base(folder: Path) -> None:
        (folder / "root.erofs").write_bytes(BASE)
        (folder / "root.verity").write_bytes(TREE)

    def difference(folder: Path) -> None:
        pieces = dict(named(Frame(store.path(Recorded("proxy-frame", steps["proxy-frame"]))), ROOT_HASH))
        write_pieces(folder, [*pieces.items(), (ROOT + 4096, b"changed %d" % number)])
        facts = {"size_bytes": SIZE, "root_hash": ROOT_HASH, "secrets_offset": 20 * MIB, "secrets_size": 2 * MIB}
        (folder / "image.json").write_text(json.dumps(facts))

    for name, make in {"frame": frame, "base": base, "difference": difference}.items():
        store.output(Recorded(f"proxy-{name}", steps[f"proxy-{name}"]), make)
    return steps


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_disk_is_put_together_and_again_when_it_is_gone(store: Store) -> None:
    steps = with_layers(store, 3)

    image = image_of(store, steps, Role.PROXY)
    assert image is not None
    content = image.path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == image.sha256
    assert all(content[place : place + 64] == ROOT_HASH.encode() for place in HASHES)
    assert STAND_IN.encode() not in content
    assert content[ROOT:].startswith(BASE[:4096] + b"changed 3" + BASE[4096 + 9 :])
    assert image.path.stat().st_mode & 0o777 == 0o444
    image.path.rename(image.path.with_name("aside"))
    image.path.parent.rename(store.root / "aside")

    assert image_of(store, steps, Role.PROXY) == image
    assert image.path.read_bytes() == content


def test_a_layer_that_was_cut_short_is_one_sentence(store: Store) -> None:
    steps = with_layers(store, 3)
    pieces = store.path(Recorded("proxy-difference", steps["proxy-difference"])) / "pieces"
    pieces.write_bytes(pieces.read_bytes()[:-1])

    with pytest.raises(ImagebuilderError, match="pieces ends early"):
        image_of(store, steps, Role.PROXY)
    assert not store.has(Recorded("proxy-image", steps["proxy-image"]))


def test_a_disk_whose_layers_are_gone_is_none(store: Store) -> None:
    assert image_of(store, keys(3), Role.PROXY) is None
    # As an earlier version recorded a generation.
    assert image_of(store, {"proxy-image": "0" * 32}, Role.PROXY) is None


def test_the_images_used_last_are_kept_and_those_that_could_not_come_back(store: Store) -> None:
    lone = store.output(Recorded("proxy-image", f"{9:032x}"), lambda folder: None)
    os.utime(lone, (0, 0))
    images = [image_of(store, with_layers(store, number), Role.PROXY) for number in range(3, 7)]
    for number, image in enumerate(images):
        assert image is not None
        os.utime(image.path.parent, (100 + number, 100 + number))

    retire_images(Store(store.root), keep=2)
    # This process uses all of them.
    assert all(image.path.exists() for image in images if image)

    for held in (store.root / "used").iterdir():
        held.unlink()
    retire_images(store, keep=2)
    assert [image.path.exists() for image in images if image] == [False, False, True, True]
    assert lone.exists()


def test_a_process_keeps_the_image_that_it_was_given(store: Store) -> None:
    steps = with_layers(store, 3)
    assert image_of(store, steps, Role.PROXY)

    assert store.in_use() == Used(outputs=frozenset([f"{3:032x}-proxy-image"]))


def test_other_identifiers_leave_the_rest_of_a_table_as_it_is() -> None:
    head, _ = table(SIZE)
    new = UUID(int=77)

    changed = identified(head, {UUID(int=2): new, UUID(int=55): UUID(int=56)})

    assert len(changed) == HEAD_BYTES
    old = lines(head)
    assert lines(changed) == (old[0], old[1].replace(str(UUID(int=2)), str(new)), old[2])
    assert identified(changed, {new: UUID(int=2)}) == head[:HEAD_BYTES]
    assert len(old) == len(PARTITIONS)


def test_a_root_larger_than_its_partition_is_one_sentence(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = with_layers(store, 3)
    folders = {name: store.path(Recorded(f"proxy-{name}", steps[f"proxy-{name}"])) for name in ("frame", "base")}
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(VERITY - ROOT + 1)
    monkeypatch.setattr(image_module, "append", lambda *_: large)
    plan = SimpleNamespace(role=Role.PROXY, difference=Recorded("proxy-difference", "9" * 32))
    parts: Any = SimpleNamespace(plan=plan, base=Base(folders["base"]))
    tools: Any = None

    with pytest.raises(ImagebuilderError, match="root file system of the proxy takes 11 MiB, and its partition has 10"):
        image_module.build_difference(store, tools, parts, Frame(folders["frame"]))
    assert not store.has(plan.difference)
