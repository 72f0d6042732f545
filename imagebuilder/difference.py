"""What differs between two builds: values of the topology, packages, files, kernel command line, disk. Pure."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from imagebuilder.lock.model import Archive, Closure, Lock
from imagebuilder.topology import Role
from imagebuilder.tree import Tree, TreeFile

NAMES = ("name", "address")
"""Keys by which a table among several is known, the first that it has."""

ROOT_HASH = "roothash="
"""Begins the word of the kernel command line that differs whenever anything does."""

DIGEST_DIGITS = 16


@dataclass(frozen=True)
class Package:
    """One version of a package."""

    version: str
    digest: str
    security: bool = False
    """Whether it is from the security archive."""


@dataclass(frozen=True)
class Part:
    """A partition."""

    label: str
    offset: int
    """Of its first byte."""
    size_bytes: int


@dataclass(frozen=True)
class Disk:
    """What is known of an image that was built."""

    sha256: str
    size_bytes: int
    root_hash: str
    data_bytes: int | None = None
    """What it takes in the store: all but its holes; None when the image is no longer there."""
    root_bytes: int | None = None
    """Size of its root file system."""
    parts: tuple[Part, ...] = ()
    """In the order of the disk; empty when the image is no longer there."""


@dataclass(frozen=True)
class Build:
    """One side of a comparison."""

    name: str
    """What the operator called it."""
    topology: Mapping[str, Any]
    """The document as the file has it."""
    trees: Mapping[Role, Tree]
    packages: Mapping[str, Mapping[str, Package]]
    """What a group of packages is for, to package by name."""
    command_lines: Mapping[Role, str]
    steps: Mapping[str, str]
    """Name of each step to the key of its derivation."""
    disks: Mapping[Role, Disk] = field(default_factory=dict)
    """Empty when nothing was built."""


@dataclass(frozen=True)
class Change:
    """One thing that is not the same; None where a side lacks it."""

    what: str
    old: str | None
    new: str | None
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        if self.old is None:
            return f"+ {self.what} {self.new}{note}"
        if self.new is None:
            return f"- {self.what} {self.old}{note}"
        return f"  {self.what} {self.old} → {self.new}{note}"


@dataclass(frozen=True)
class FileChange:
    """A file or link that is not the same."""

    path: str
    change: str
    """``added``, ``removed`` or ``changed``, and what of it."""
    diff: tuple[str, ...] = ()
    """Lines of a unified diff, without line ends; empty for what is no text."""


@dataclass(frozen=True)
class Difference:
    """All that differs; each group is there only when something in it does."""

    old: str
    new: str
    topology: tuple[Change, ...]
    packages: Mapping[str, tuple[Change, ...]]
    files: Mapping[Role, tuple[FileChange, ...]]
    command_line: Mapping[Role, tuple[Change, ...]]
    partitions: Mapping[Role, tuple[Change, ...]]
    sizes: Mapping[Role, tuple[Change, ...]]
    images: Mapping[Role, tuple[Change, ...]]
    """Digests and root hashes."""
    steps: tuple[Change, ...]
    """Keys of derivations: whatever can change a step's output, be it imagebuilder itself."""
    unbuilt: tuple[str, ...]
    """Names of the sides that no image is there of: their disks were not compared."""

    def __bool__(self) -> bool:
        groups = (self.packages, self.files, self.command_line, self.partitions, self.sizes, self.images)
        return bool(self.topology or self.steps) or any(groups)


def difference(old: Build, new: Build) -> Difference:
    """Return what differs in *new*."""

    def per_role(compare: Mapping[Role, tuple[Any, ...]]) -> dict[Role, tuple[Any, ...]]:
        return {role: changes for role, changes in compare.items() if changes}

    groups = sorted(old.packages.keys() | new.packages.keys())
    packages = {name: package_changes(old.packages.get(name, {}), new.packages.get(name, {})) for name in groups}
    both = {role: (old.disks[role], new.disks[role]) for role in Role if role in old.disks and role in new.disks}
    return Difference(
        old=old.name,
        new=new.name,
        topology=value_changes(flattened(old.topology), flattened(new.topology)),
        packages={name: changes for name, changes in packages.items() if changes},
        files=per_role({role: tuple(file_changes(old.trees[role], new.trees[role])) for role in Role}),
        command_line=per_role({r: word_changes(old.command_lines[r], new.command_lines[r]) for r in Role}),
        partitions=per_role({role: part_changes(a.parts, b.parts) for role, (a, b) in both.items()}),
        sizes=per_role({role: size_changes(a, b) for role, (a, b) in both.items()}),
        images=per_role({role: image_changes(a, b) for role, (a, b) in both.items()}),
        steps=value_changes(old.steps, new.steps),
        unbuilt=tuple(build.name for build in (old, new) if not build.disks),
    )


def flattened(document: Mapping[str, Any], place: str = "") -> dict[str, str]:
    """Return every value of *document* by its place: ``mail.mailboxes[alice@example.org].quota_mib``."""
    found: dict[str, str] = {}
    for key, value in document.items():
        here = f"{place}.{key}" if place else key
        if isinstance(value, Mapping):
            found |= flattened(value, here)
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for name, item in _named(value):
                # A table that says nothing but its name is there, too.
                found |= flattened(item, f"{here}[{name}]") or {f"{here}[{name}]": "{}"}
        else:
            found[here] = json.dumps(value, default=str, ensure_ascii=False)
    return found


def _named(tables: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    names = [next((str(table[key]) for key in NAMES if key in table), "") for table in tables]
    for number, (name, table) in enumerate(zip(names, tables, strict=True)):
        yield name if name and names.count(name) == 1 else str(number), table


def value_changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Change, ...]:
    """Return what differs in *new*, sorted."""
    names = sorted(old.keys() | new.keys())
    return tuple(Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))


def package_changes(old: Mapping[str, Package], new: Mapping[str, Package]) -> tuple[Change, ...]:
    """Return which packages were added, removed, or have another version or other bytes in *new*, sorted."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before and after and before.digest == after.digest:
            continue
        notes = ["security"] if after and after.security else []
        if before and after and before.version == after.version:
            notes.append("same version, other bytes")
        found.append(
            Change(name, before.version if before else None, after.version if after else None, ", ".join(notes))
        )
    return tuple(found)


def locked_packages(lock: Lock) -> dict[str, dict[str, Package]]:
    """Return the Debian packages of *lock* by what they are for."""
    return {
        closure.value: {
            package.name: Package(package.version, package.sha256, package.archive is Archive.SECURITY)
            for package in lock.closure(closure)
        }
        for closure in Closure
    }


def npm_packages(lock: str) -> dict[str, Package]:
    """Return the packages of *lock*, npm's package-lock.json, by their path below node_modules."""
    return {
        path.removeprefix("node_modules/"): Package(said.get("version", ""), said.get("integrity", ""))
        for path, said in json.loads(lock).get("packages", {}).items()
        if path
    }


def file_changes(old: Tree, new: Tree) -> Iterator[FileChange]:
    """Yield what differs in *new*, sorted by path."""
    for path in sorted(old.files.keys() | new.files.keys() | old.links.keys() | new.links.keys()):
        before, after = _at(old, path), _at(new, path)
        if before != after:
            yield _file_change(str(path), before, after)


def _at(tree: Tree, path: PurePosixPath) -> TreeFile | str | None:
    return tree.files.get(path, tree.links.get(path))


def _file_change(path: str, old: TreeFile | str | None, new: TreeFile | str | None) -> FileChange:
    lines_before, lines_after = _lines(old), _lines(new)
    if lines_before is None or lines_after is None:
        diff = [f"{mark}{_binary(entry)}" for mark, entry in (("-", old), ("+", new)) if isinstance(entry, TreeFile)]
    else:
        names = (f"a/{path}" if old else "/dev/null", f"b/{path}" if new else "/dev/null")
        diff = list(difflib.unified_diff(lines_before, lines_after, *names, lineterm=""))
    return FileChange(path, _kind(old, new), tuple(diff))


def _kind(old: TreeFile | str | None, new: TreeFile | str | None) -> str:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if isinstance(old, TreeFile) and isinstance(new, TreeFile):
        return f"changed, mode {old.mode:04o} → {new.mode:04o}" if old.mode != new.mode else "changed"
    return "changed" if isinstance(old, str) == isinstance(new, str) else "changed between file and link"


def _lines(entry: TreeFile | str | None) -> list[str] | None:
    """Return the lines of a file, or what a link says, or None for what is no text."""
    if entry is None:
        return []
    if isinstance(entry, str):
        return [f"link to {entry}"]
    try:
        text = entry.content.decode()
    except UnicodeDecodeError:
        return None
    # Not splitlines(): it takes form feeds and the like for line ends, which would hide them from the diff.
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else [*lines[:-1], f"{lines[-1]}\\ no end of line"]


def _binary(file: TreeFile) -> str:
    return f"{len(file.content):,} bytes, SHA-256 {hashlib.sha256(file.content).hexdigest()[:DIGEST_DIGITS]}…"


def word_changes(old: str, new: str) -> tuple[Change, ...]:
    """Return which words of a kernel command line are in one only; the root hash is told elsewhere."""
    before, after = ([w for w in line.split() if not w.startswith(ROOT_HASH)] for line in (old, new))
    gone = [Change("word", word, None) for word in before if word not in after]
    come = [Change("word", None, word) for word in after if word not in before]
    if not gone and not come and before != after:
        return (Change("order", " ".join(before), " ".join(after)),)
    return (*gone, *come)


def part_changes(old: Sequence[Part], new: Sequence[Part]) -> tuple[Change, ...]:
    """Return which partitions have another size or place, or nothing when those of a side are not known."""
    if not old or not new:
        return ()
    before, after = (
        {part.label: f"{_mib(part.size_bytes)} at {_mib(part.offset)}" for part in parts} for parts in (old, new)
    )
    return value_changes(before, after)


def size_changes(old: Disk, new: Disk) -> tuple[Change, ...]:
    """Return which sizes differ, as far as both are known."""
    pairs = (
        ("disk", old.size_bytes, new.size_bytes),
        ("data", old.data_bytes, new.data_bytes),
        ("root file system", old.root_bytes, new.root_bytes),
    )
    return tuple(
        Change(name, _mib(before), _mib(after), f"{(after - before) / 2**20:+,.2f} MiB")
        for name, before, after in pairs
        if before is not None and after is not None and before != after
    )


def image_changes(old: Disk, new: Disk) -> tuple[Change, ...]:
    """Return which digests differ."""
    return value_changes(
        {"sha256": old.sha256, "root hash": old.root_hash}, {"sha256": new.sha256, "root hash": new.root_hash}
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.2f} MiB"
