import json
import os
from pathlib import Path

import pytest

from imagebuilder.commands.verify import facts, text
from imagebuilder.comparison import Difference
from imagebuilder.errors import ImagebuilderError
from imagebuilder.fetch import Sources
from imagebuilder.store.folder import Store
from imagebuilder.store.substituter import Substituter
from imagebuilder.topology import Role
from imagebuilder.verify.circumstances import OFFSET, UMASK, Circumstances, circumstances, other_clock
from imagebuilder.verify.rebuild import Digests, Verdict, rebuilt

DIGESTS = Digests("d" * 64, {"esp": "e" * 64, "root": "f" * 64}, "a" * 64, "b" * 64, "c" * 64)
SAME = Verdict(DIGESTS, ())
OTHER = Verdict(DIGESTS, (Difference(("root", "etc/hosts"), "file 0644", "file 0600", "the umask"),))


def test_an_image_that_came_out_the_same_is_a_line_with_its_digests() -> None:
    (line,) = text({Role.PROXY: SAME}).splitlines()

    assert line.startswith("proxy   identical  ")
    for digest in (DIGESTS.disk, DIGESTS.root_hash, DIGESTS.uki[:16], DIGESTS.initrd[:16]):
        assert digest in line


def test_an_image_that_came_out_otherwise_is_explained() -> None:
    lines = text({Role.PROXY: SAME, Role.CLIENT: OTHER}).splitlines()

    assert lines[1:] == [
        "client  DIFFERENT, in 1 place:",
        "  root > etc/hosts: file 0644 / file 0600; likely cause: the umask",
    ]


def test_machines_get_all_digests_and_what_was_varied() -> None:
    how = Circumstances("plain", 1, {"time": "why not"})

    told = json.loads(json.dumps(facts({Role.PROXY: SAME, Role.CLIENT: OTHER}, how)))

    assert not told["identical"]
    assert told["images"]["proxy"]["identical"]
    assert told["images"]["proxy"]["digests"]["partitions"] == {"esp": "e" * 64, "root": "f" * 64}
    assert told["images"]["client"]["differences"][0]["place"] == ["root", "etc/hosts"]
    assert told["varied"]["user"] == "root and plain"
    assert told["not_varied"] == {"time": "why not"}


def test_the_second_build_has_a_user_and_a_processor_of_its_own_only_where_there_are_some() -> None:
    assert Circumstances().argv(["true"]) == ["true"]
    assert Circumstances(processor=3).argv(["true"]) == ["taskset", "--cpu-list", "3", "true"]
    assert not {"user", "processors"} & set(Circumstances().varied)


def test_what_cannot_be_varied_here_is_told(tmp_path: Path) -> None:
    # No plain user may read a folder that is not there.
    how = circumstances(tmp_path / "store")

    assert "user" in how.fixed
    assert how.user is None


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is only one processor")
def test_the_second_build_has_one_processor_where_the_first_has_several(tmp_path: Path) -> None:
    assert circumstances(tmp_path).processor in os.sched_getaffinity(0)


def test_the_other_clock_is_of_another_year() -> None:
    assert other_clock().library.is_file()
    assert other_clock().offset == OFFSET
    assert int(OFFSET.strip("+d")) > 366
    assert UMASK != 0o022


def test_a_second_build_that_fails_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    sources = Sources(dict, (Substituter(str(tmp_path)),), "https://snapshot.example")

    with pytest.raises(
        ImagebuilderError, match=r"the second build ended with status 2\n(.*\n)*.*topology\.toml"
    ) as caught:
        rebuilt(
            Store(tmp_path), {"topology.toml": b"broken ="}, (Role.PROXY,), tmp_path / "work", Circumstances(), sources
        )

    assert "usage" not in str(caught.value)
    assert caught.value.hint
