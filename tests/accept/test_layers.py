"""A disk that is put together from layers, against the same disk made in one go."""

import random
from pathlib import Path
from uuid import UUID

import pytest

from imagebuilder.build.base import Base, initrd_in
from imagebuilder.build.disk import Contents, Parts, lay_out
from imagebuilder.build.image import append
from imagebuilder.build.verity import BLOCK_BYTES, regrown, seal
from imagebuilder.commands.sources import the_store
from imagebuilder.pipeline import Built
from imagebuilder.plan import Plan
from imagebuilder.store.hashing import sha256_of
from imagebuilder.tools import Tools
from imagebuilder.topology import Role


@pytest.mark.accept
@pytest.mark.parametrize("role", Role)
def test_a_disk_put_together_from_layers_is_the_one_that_repart_makes_of_the_whole(
    built: Built, plan: Plan, role: Role, tmp_path: Path
) -> None:
    store, role_plan = the_store(), plan.roles[role]
    parts = Parts(role_plan, plan.lock, Base(store.path(role_plan.base)), initrd_in(store, role_plan))

    contents = Contents(append(built.tools, parts, tmp_path), tmp_path / "root.verity")
    salt, uuid = parts.uuid("salt").bytes * 2, parts.uuid("verity")
    root_hash = seal(built.tools, contents.root, contents.verity, salt=salt, uuid=uuid)
    lay_out(built.tools, parts, root_hash, tmp_path, tmp_path / "disk.raw", contents=contents)

    assert root_hash == built.images[role].root_hash
    assert sha256_of(tmp_path / "disk.raw") == built.images[role].sha256


@pytest.mark.accept
@pytest.mark.parametrize(("old", "new"), [(2, 2), (2, 3), (127, 128), (128, 129), (130, 300), (16384, 16385)])
def test_a_hash_tree_that_grew_is_the_one_that_veritysetup_makes_of_the_whole(
    tools: Tools, tmp_path: Path, old: int, new: int
) -> None:
    chance, uuid, salt = random.Random(1), UUID(int=1), bytes(range(32))
    content = bytearray(chance.randbytes(old * BLOCK_BYTES))
    (tmp_path / "old").write_bytes(content)
    seal(tools, tmp_path / "old", tmp_path / "old.verity", salt=salt, uuid=uuid)
    content[-BLOCK_BYTES:] = chance.randbytes((new - old + 1) * BLOCK_BYTES)
    (tmp_path / "new").write_bytes(content)
    root_hash = seal(tools, tmp_path / "new", tmp_path / "new.verity", salt=salt, uuid=uuid)

    differing = [((old - 1) * BLOCK_BYTES, bytes(content[(old - 1) * BLOCK_BYTES :]))]
    grown = regrown((tmp_path / "old.verity").read_bytes(), differing, len(content))

    assert grown == ((tmp_path / "new.verity").read_bytes(), root_hash)
