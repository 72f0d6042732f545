"""A generation with two small images, as a build leaves it, and an attestation of its test."""

from pathlib import Path

from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import images_of, inputs_of
from imagebuilder.generations import Generation, Generations
from imagebuilder.init import init
from imagebuilder.statements.intoto import PAYLOAD_TYPE, Statement, subject
from imagebuilder.statements.signing import SigningKey, sign
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role
from tests.unit.images import small_image

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"


def generation(folder: Path) -> Generation:
    """Return the first generation of a topology in *folder*, with secrets beside it and its store in ``store``."""
    path = folder / "topology.toml"
    path.write_text(REFERENCE.read_text())
    path.with_suffix(".lock").write_text(REFERENCE.with_suffix(".lock").read_text())
    init(path, plain=True)
    files, store = Files(path), Store(folder / "store")
    plan, images = files.plan(), {}
    for role, role_plan in plan.roles.items():
        place = store.path(role_plan.image)
        place.mkdir(parents=True)
        images[role] = small_image(place, role)
    store.path(plan.tools).mkdir()
    return Generations(store, path).record(plan, images_of(images), inputs_of(files))


def attest(
    store: Store, generation: Generation, *, result: str = "PASSED", key: SigningKey | None = None, other: str = ""
) -> Path:
    """Write down that *generation* was tested, as `test` does; *other* takes the place of the client's digest."""
    digests = generation.digests
    subjects = (subject("proxy", digests[Role.PROXY]), subject("client", other or digests[Role.CLIENT]))
    statement = Statement(
        subject=subjects,
        predicate_type="https://in-toto.io/attestation/test-result/v0.1",
        predicate={"result": result},
    )
    path = store.root / "attestations" / f"{digests[Role.PROXY]}-{digests[Role.CLIENT]}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(sign(PAYLOAD_TYPE, statement.to_bytes(), key).to_json())
    return path
