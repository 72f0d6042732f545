import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.difference import (
    Build,
    Change,
    Disk,
    Package,
    Part,
    difference,
    file_changes,
    flattened,
    npm_packages,
    package_changes,
    part_changes,
    value_changes,
    word_changes,
)
from imagebuilder.topology import Role
from imagebuilder.tree import Tree, TreeFile, archive, from_archive

NAMES = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=6)
PATHS = st.lists(NAMES, min_size=1, max_size=2).map(lambda parts: PurePosixPath("etc", *parts))
FILES = st.builds(TreeFile, st.binary(max_size=40), st.sampled_from([0o644, 0o755]))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree that a file system can have: nothing is both a folder and something else."""
    files = draw(st.dictionaries(PATHS, FILES, max_size=5))
    links = draw(st.dictionaries(PATHS, NAMES, max_size=3))
    folders = set(Tree(files, links).folders)
    return Tree(
        {path: file for path, file in files.items() if path not in folders},
        {path: link for path, link in links.items() if path not in folders and path not in files},
    )


PACKAGES = st.dictionaries(NAMES, st.builds(Package, st.sampled_from("123"), st.sampled_from("ab"), st.booleans()))


def build(changed: Mapping[str, Any] | None = None) -> Build:
    disk = Disk("0" * 64, 2**30, "1" * 64, data_bytes=2**20, root_bytes=2**19, parts=(Part("esp", 2**20, 2**29),))
    plain = Build(
        name="x",
        topology={"tunnel": {"mtu": 1420}},
        trees=dict.fromkeys(Role, Tree()),
        packages={"proxy": {"a": Package("1", "a")}},
        command_lines=dict.fromkeys(Role, "roothash=1 ro quiet"),
        steps={"tools": "k"},
        disks=dict.fromkeys(Role, disk),
    )
    return replace(plain, **changed or {})


def applied(old: Tree, new: Tree) -> Tree:
    """Return *old* after each reported path became what it is in *new*."""
    files, links = dict(old.files), dict(old.links)
    for change in file_changes(old, new):
        path = PurePosixPath(change.path)
        files.pop(path, None), links.pop(path, None)
        if path in new.files:
            files[path] = new.files[path]
        if path in new.links:
            links[path] = new.links[path]
    return Tree(files, links)


@given(trees())
def test_an_archived_tree_comes_back_as_it_was(tree: Tree) -> None:
    assert from_archive(archive(tree, epoch=7)) == tree


@given(trees(), trees())
def test_the_reported_files_are_exactly_those_that_differ(old: Tree, new: Tree) -> None:
    assert applied(old, new) == new
    assert not list(file_changes(new, new))
    same = (old.files.items() & new.files.items()) | (old.links.items() & new.links.items())
    assert not {path for path, _ in same} & {PurePosixPath(change.path) for change in file_changes(old, new)}


@given(PACKAGES, PACKAGES)
def test_packages_are_reported_once_and_both_ways_alike(old: dict[str, Package], new: dict[str, Package]) -> None:
    there, back = package_changes(old, new), package_changes(new, old)

    assert [(c.what, c.old, c.new) for c in there] == [(c.what, c.new, c.old) for c in back]
    assert {c.what for c in there} == {
        n for n in old.keys() | new.keys() if n not in old or n not in new or old[n].digest != new[n].digest
    }


@given(st.dictionaries(NAMES, NAMES), st.dictionaries(NAMES, NAMES))
def test_the_reported_values_lead_from_one_side_to_the_other(old: dict[str, str], new: dict[str, str]) -> None:
    result: dict[str, str | None] = dict(old)
    for change in value_changes(old, new):
        result[change.what] = change.new
    assert {name: value for name, value in result.items() if value is not None} == new


def test_a_build_does_not_differ_from_itself() -> None:
    found = difference(build(), build())

    assert not found
    assert found.unbuilt == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"topology": {"tunnel": {"mtu": 1300}}},
        {"trees": dict.fromkeys(Role, Tree(links={PurePosixPath("a"): "b"}))},
        {"packages": {}},
        {"command_lines": dict.fromkeys(Role, "roothash=1 ro")},
        {"steps": {"tools": "l"}},
        {"disks": dict.fromkeys(Role, Disk("2" * 64, 2**30, "1" * 64))},
        {"disks": dict.fromkeys(Role, Disk("0" * 64, 2**31, "1" * 64))},
    ],
)
def test_a_difference_at_any_level_is_one(changed: dict[str, Any]) -> None:
    assert difference(build(), build(changed))
    assert difference(build(changed), build())


def test_what_was_not_built_is_named_and_its_disk_not_compared() -> None:
    found = difference(build(), build({"name": "now", "disks": {}}))

    assert not found
    assert found.unbuilt == ("now",)


def test_values_are_found_by_the_names_of_their_tables() -> None:
    document = {
        "tunnel": {"mtu": 1420},
        "mail": {
            "domains": [{"name": "a.example"}],
            "mailboxes": [{"address": "x@a.example", "quota_mib": 1}, {"address": "x@a.example"}, {"aliases": ["y"]}],
        },
    }

    assert flattened(document) == {
        "tunnel.mtu": "1420",
        "mail.domains[a.example].name": '"a.example"',
        "mail.mailboxes[0].address": '"x@a.example"',
        "mail.mailboxes[0].quota_mib": "1",
        "mail.mailboxes[1].address": '"x@a.example"',
        "mail.mailboxes[2].aliases": '["y"]',
    }


def test_a_mailbox_put_in_front_leaves_the_others_alone() -> None:
    old = {"mail": {"mailboxes": [{"address": "b@x"}]}}
    new = {"mail": {"mailboxes": [{"address": "a@x"}, {"address": "b@x"}]}}

    assert value_changes(flattened(old), flattened(new)) == (Change("mail.mailboxes[a@x].address", None, '"a@x"'),)


def test_a_changed_file_shows_as_a_unified_diff() -> None:
    path = PurePosixPath("etc/x")
    old, new = Tree({path: TreeFile(b"a\nb\n")}), Tree({path: TreeFile(b"a\nc", 0o755)})

    (change,) = file_changes(old, new)

    assert change.change == "changed, mode 0644 → 0755"
    assert change.diff == ("--- a/etc/x", "+++ b/etc/x", "@@ -1,2 +1,2 @@", " a", "-b", "+c\\ no end of line")


def test_files_that_are_no_text_and_links_are_told_in_words() -> None:
    path = PurePosixPath("x")
    binary, link = Tree({path: TreeFile(b"\xff\x00")}), Tree(links={path: "/dev/null"})

    (added,) = file_changes(Tree(), binary)
    (turned,) = file_changes(binary, link)
    (removed,) = file_changes(link, Tree())

    assert added.diff[0].startswith(f"+2 bytes, SHA-256 {hashlib.sha256(bytes([255, 0])).hexdigest()[:16]}")
    assert turned.change == "changed between file and link"
    assert removed.diff[-1] == "-link to /dev/null"


def test_packages_tell_their_versions_and_why() -> None:
    old = {"a": Package("1", "x"), "b": Package("1", "x"), "d": Package("1", "x")}
    new = {"a": Package("2", "y", security=True), "c": Package("1", "x"), "d": Package("1", "y")}

    assert [str(change) for change in package_changes(old, new)] == [
        "  a 1 → 2 (security)",
        "- b 1",
        "+ c 1",
        "  d 1 → 1 (same version, other bytes)",
    ]


def test_npm_packages_are_told_apart_by_their_place() -> None:
    lock = """{"packages": {"": {"version": "0"}, "node_modules/a": {"version": "1", "integrity": "i"},
               "node_modules/a/node_modules/b": {"version": "2", "integrity": "j"}}}"""

    assert npm_packages(lock) == {"a": Package("1", "i"), "a/node_modules/b": Package("2", "j")}


def test_the_kernel_command_line_is_compared_word_by_word_without_the_root_hash() -> None:
    assert word_changes("roothash=1 ro quiet", "roothash=2 ro quiet") == ()
    assert word_changes("roothash=1 ro quiet", "ro panic=3") == (
        Change("word", "quiet", None),
        Change("word", None, "panic=3"),
    )
    assert [change.what for change in word_changes("a b", "b a")] == ["order"]


def test_partitions_tell_size_and_place_and_are_silent_when_unknown() -> None:
    old, new = [Part("esp", 2**20, 2**29)], [Part("esp", 2**20, 2**28)]

    assert [str(change) for change in part_changes(old, new)] == [
        "  esp 512.00 MiB at 1.00 MiB → 256.00 MiB at 1.00 MiB"
    ]
    assert part_changes(old, []) == ()
