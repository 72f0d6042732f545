from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import inputs_of
from imagebuilder.errors import ImagebuilderError
from imagebuilder.generations import (
    RECORD,
    BuiltImage,
    Generation,
    Generations,
    NoSuchGenerationError,
    every_topology,
    keep_provenance,
    steps_of,
)
from imagebuilder.plan import Plan, plan
from imagebuilder.statements.signing import Envelope, sign
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role

REFERENCE = Files(Path(__file__).parents[1] / "topologies/reference.toml")


@cache
def planned(mtu: int = 1420) -> Plan:
    topology, public, lock = REFERENCE.read()
    tunnel = topology.tunnel.model_copy(update={"mtu": mtu})
    return plan(topology.model_copy(update={"tunnel": tunnel}), public, lock)


def images(digit: str = "0") -> dict[Role, BuiltImage]:
    return {
        role: BuiltImage(path=Path("/x"), sha256=digit * 64, size_bytes=1, root_hash="2" * 64, command_line="ro")
        for role in Role
    }


def record(generations: Generations, plan: Plan, digit: str = "0") -> Generation:
    return generations.record(plan, images(digit), inputs_of(REFERENCE))


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    return Generations(Store(tmp_path / "store"), tmp_path / "topology.toml")


def test_before_the_first_build_there_are_none(generations: Generations) -> None:
    assert generations.all() == ()
    assert generations.latest() is None
    with pytest.raises(NoSuchGenerationError, match="there are none yet"):
        generations.find(1)


def test_a_build_is_recorded_with_copies_of_all_that_it_was_made_from(generations: Generations) -> None:
    generation = record(generations, planned())

    assert generation == generations.find(1) == generations.latest()
    assert generation.record.steps == steps_of(planned())
    assert generation.record.images == images()
    copies = Files(generation.topology)
    assert steps_of(copies.plan()) == generation.record.steps
    assert set(generation.record.inputs) == {"topology.toml", "topology.public.toml", "topology.lock"}
    assert generation.tree(Role.CLIENT) == planned().roles[Role.CLIENT].tree


def test_a_build_that_changes_nothing_makes_no_generation(generations: Generations) -> None:
    assert record(generations, planned()) == record(generations, planned())
    assert [g.number for g in generations.all()] == [1]


def test_other_inputs_and_other_bytes_make_a_generation(generations: Generations) -> None:
    numbers = [
        record(generations, planned(mtu), digit).number for mtu, digit in ((1420, "0"), (1300, "0"), (1300, "1"))
    ]

    assert numbers == [1, 2, 3]
    assert [g.number for g in generations.all()] == [1, 2, 3]


def test_going_back_is_a_new_generation_as_well(generations: Generations) -> None:
    assert [record(generations, planned(mtu)).number for mtu in (1420, 1300, 1420)] == [1, 2, 3]


def test_a_number_that_does_not_exist_is_answered_by_those_that_do(generations: Generations) -> None:
    record(generations, planned()), record(generations, planned(1300))

    with pytest.raises(NoSuchGenerationError, match=r"no generation 7 of .*topology\.toml: there are 1, 2"):
        generations.find(7)


def test_each_topology_counts_for_itself_and_all_are_known_to_the_store(generations: Generations) -> None:
    other = Generations(generations.store, generations.topology_path.with_name("other.toml"))

    assert record(generations, planned()).number == record(other, planned()).number == 1
    known = list(every_topology(generations.store))
    assert {g.record.topology for gs in known for g in gs} == {generations.topology_path, other.topology_path}
    assert all(str(planned().roles[Role.PROXY].image) in g.outputs for gs in known for g in gs)


def test_builds_at_the_same_time_get_numbers_of_their_own(generations: Generations) -> None:
    plans = [planned(mtu) for mtu in range(1300, 1308)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        numbers = [g.number for g in pool.map(lambda plan: record(generations, plan), plans)]

    assert sorted(numbers) == list(range(1, 9))
    assert list((generations.store.root / "tmp").iterdir()) == []


def test_a_damaged_record_is_one_sentence(generations: Generations) -> None:
    generation = record(generations, planned())
    (generation.folder / RECORD).write_text("{}")

    with pytest.raises(ImagebuilderError, match="is no record of a generation"):
        generations.latest()


def test_a_damaged_copy_is_one_sentence(generations: Generations) -> None:
    generation = record(generations, planned())
    generation.topology.write_text("[proxy]")
    (generation.folder / "proxy.tar").unlink()
    (generation.folder / "client.tar").write_bytes(b"no archive")

    with pytest.raises(ImagebuilderError, match=r"generation 1 is damaged: inputs/topology\.toml has changed"):
        generation.input("topology.toml")
    with pytest.raises(ImagebuilderError, match=r"generation 1 is damaged: proxy\.tar is missing"):
        generation.tree(Role.PROXY)
    with pytest.raises(ImagebuilderError, match=r"generation 1 is damaged: client\.tar has changed"):
        generation.tree(Role.CLIENT)
    assert len(list(generation.damage())) == 3


def test_another_lock_makes_a_generation_even_if_it_means_the_same(generations: Generations) -> None:
    record(generations, planned())
    inputs = inputs_of(REFERENCE)
    comment = inputs | {"topology.toml": b"# a comment\n" + inputs["topology.toml"]}
    lock = inputs | {"topology.lock": b"# a comment\n" + inputs["topology.lock"]}

    assert generations.record(planned(), images(), comment).number == 1
    assert generations.record(planned(), images(), lock).number == 2


def test_a_provenance_may_be_signed_later(generations: Generations) -> None:
    generation = record(generations, planned())
    assert not generation.provenance.exists()

    for payload in (b"one", b"two"):
        envelope = sign("text/plain", payload, None)
        keep_provenance(generations.store, generation, envelope)
        assert Envelope.from_json(generation.provenance.read_bytes()) == envelope
