import hashlib
import json
import shutil
from pathlib import Path

import pytest

from imagebuilder.build.disk import command_line
from imagebuilder.cli import main
from imagebuilder.commands.files import Files
from imagebuilder.commands.recorded import inputs_of
from imagebuilder.generations import RECORD, BuiltImage, Generation, Generations
from imagebuilder.runs.attestation import PREDICATE_TYPE
from imagebuilder.statements.intoto import PAYLOAD_TYPE, Statement, subject
from imagebuilder.statements.signing import sign
from imagebuilder.store.folder import Store
from imagebuilder.topology import Role

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"


def recorded(site: Path, *, mtu: int = 1420) -> Generation:
    """Record what a build of *site* leaves, and put its images into the store."""
    files, store = Files(site / "topology.toml"), Store(site / "store")
    text = files.topology.read_text()
    files.topology.write_text(text.replace("mtu = 1420", f"mtu = {mtu}"))
    plan, images = files.plan(), {}
    for role, role_plan in plan.roles.items():
        folder = store.path(role_plan.image)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "disk.raw").write_bytes(bytes(9))
        facts = {"sha256": "0" * 64, "size_bytes": 9, "root_hash": "1" * 64, "secrets_offset": 1, "secrets_size": 1}
        (folder / "image.json").write_text(json.dumps(facts))
        images[role] = BuiltImage(
            path=folder / "disk.raw",
            sha256="0" * 64,
            size_bytes=9,
            root_hash="1" * 64,
            command_line=command_line("1" * 64),
        )
    generation = Generations(store, files.topology).record(plan, images, inputs_of(files))
    files.topology.write_text(text)
    return generation


def attest(site: Path) -> Path:
    """Say that the images passed, where the gate looks for it, and return that file."""
    statement = Statement(
        subject=tuple(subject(role, "0" * 64) for role in Role),
        predicate_type=PREDICATE_TYPE,
        predicate={"result": "PASSED"},
    )
    path = site / f"store/attestations/{'0' * 64}-{'0' * 64}.json"
    path.parent.mkdir()
    path.write_text(sign(PAYLOAD_TYPE, statement.to_bytes(), None).to_json())
    return path


def test_before_the_first_build_the_list_is_empty(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generations"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing was built" in err


def test_the_list_tells_what_was_tested_and_where_it_went(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(site)
    generation = recorded(site, mtu=1300)
    entry = {"role": "proxy", "where": "root@vps", "when": "2026-11-22T20:00:00Z", "tested": True}
    generation.shipments.write_text(json.dumps(entry) + '\n{"role": "cl')
    attestation = attest(site)

    assert main(["generations"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "proxy"]
    assert lines[2].strip() == "proxy shipped to root@vps at 2026-11-22T20:00:00Z"
    assert main(["generations", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["generations"]
    assert (first["number"], first["shipments"], first["attested"]) == (1, [], True)
    assert second["shipments"] == [entry]
    assert second["images"]["client"]["sha256"] == "0" * 64
    attestation.write_text("{}")
    assert main(["generations"]) == 0
    assert f"untested: {attestation} is no signed statement" in capsys.readouterr().out


def test_a_generation_is_given_again_whatever_the_topology_says_by_now(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generation = recorded(site)
    (site / "topology.toml").write_text("[proxy\n")

    assert main(["build", "--generation", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["generation"] == 1
    assert {r: i["sha256"] for r, i in told["images"].items()} == generation.digests
    assert main(["build", "--generation", "2"]) == 2
    assert "there are 1" in capsys.readouterr().err


def test_the_last_two_generations_are_compared_down_to_the_file(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(site), recorded(site, mtu=1300)

    # The disks of this test are no disks.
    for role in Role:
        for path in (site / "store/outputs").glob(f"*-{role}-image"):
            shutil.rmtree(path)
    assert main(["diff"]) == 0
    out = capsys.readouterr().out
    assert "  tunnel.mtu 1420 → 1300" in out
    assert "-MTUBytes=1420\n+MTUBytes=1300\n" in out


def test_a_generation_is_compared_with_what_would_be_built_now_and_with_another_topology(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(site)
    for path in (site / "store/outputs").iterdir():
        shutil.rmtree(path)
    text = (site / "topology.toml").read_text()
    (site / "other.toml").write_text(text.replace("mtu = 1420", "mtu = 1300"))

    assert main(["diff", "1", "now", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["topology"], told["files"], told["unbuilt"]) == ([], {}, ["now"])
    assert main(["diff", "now", "other.toml", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [change["what"] for change in json.loads(out)["topology"]] == ["tunnel.mtu"]
    assert "has none of its own" in err


def test_a_side_that_does_not_exist_is_wrong_input(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff"]) == 2
    assert "no generations" in capsys.readouterr().err
    recorded(site)
    assert main(["diff"]) == 2
    assert "hint: imagebuilder diff 1 now" in capsys.readouterr().err
    assert main(["diff", "nowhere.toml"]) == 2
    assert "'nowhere.toml' is no generation's number" in capsys.readouterr().err


def test_a_plan_tells_what_would_change_against_the_latest_generation(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(site, mtu=1300)
    for path in (site / "store/outputs").iterdir():
        shutil.rmtree(path)

    assert main(["plan"]) == 0
    assert "against generation 1: 1 topology values, 4 files, 4 steps differ" in capsys.readouterr().out


def test_a_generation_that_this_version_cannot_make_says_whose_it_is(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generation = recorded(site)
    for path in (site / "store/outputs").iterdir():
        shutil.rmtree(path)
    # As if a later version knew other keys: the record is about this very file.
    generation.topology.write_text("[proxy]\nspeed = 3\n")
    now = hashlib.sha256(generation.topology.read_bytes()).hexdigest()
    told = (generation.folder / RECORD).read_text()
    (generation.folder / RECORD).write_text(told.replace(generation.record.inputs["topology.toml"], now))

    assert main(["build", "--generation", "1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: generation 1 can't be made again: ")
    assert "hint: it was made by imagebuilder " in err


def test_a_damaged_copy_is_told_before_anything_is_built(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generation = recorded(site)
    for path in (site / "store/outputs").iterdir():
        shutil.rmtree(path)
    generation.topology.write_text("[proxy]\nspeed = 3\n")

    for command in (["build"], ["verify"]):
        assert main([*command, "--generation", "1"]) == 1
        assert capsys.readouterr().err.startswith("error: generation 1 is damaged: inputs/topology.toml has changed\n")
