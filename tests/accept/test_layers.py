"""A disk that is put together from layers, against the same disk made in one go."""

from pathlib import Path

import pytest

from imagebuilder.build.base import Base, initrd_in
from imagebuilder.build.disk import Contents, Parts, lay_out
from imagebuilder.build.image import append
from imagebuilder.build.verity import seal
from imagebuilder.commands.sources import the_store
from imagebuilder.pipeline import Built
from imagebuilder.plan import Plan
from imagebuilder.store.hashing import sha256_of
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
