"""Building the same again, from nothing but the downloads and under other circumstances, and comparing the outcome."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.comparison import Difference, differences, partitions
from imagebuilder.comparison.readers import read_fat, read_pe
from imagebuilder.errors import ImagebuilderError
from imagebuilder.fetch import Sources
from imagebuilder.pipeline import build
from imagebuilder.plan import Plan
from imagebuilder.run import run, say
from imagebuilder.store.folder import Store
from imagebuilder.store.hashing import sha256_of
from imagebuilder.store.substituter import Substituter
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.verify.circumstances import UMASK, Circumstances, other_clock

PASSED_ON = ("imagebuilder_mirror", "imagebuilder_security_mirror", "npm_config_", "python")
"""Beginnings of the names of variables that the second build needs too: where things come from."""


@dataclass(frozen=True)
class Digests:
    """What an image consists of, read from its bytes and nothing that was noted about it. SHA-256, hexadecimal."""

    disk: str
    partitions: Mapping[str, str]
    """By label."""
    uki: str
    initrd: str
    root_hash: str
    """That the kernel is given for dm-verity."""


@dataclass(frozen=True)
class Verdict:
    """Whether an image came out the same twice."""

    digests: Digests
    """Of the first."""
    differences: tuple[Difference, ...]

    @property
    def identical(self) -> bool:
        """Say whether both have the same bytes."""
        return not self.differences


def digests(path: Path, tools: Tools, work: Path) -> Digests:
    """Return the digests of the image *path*; *work* is an empty folder."""
    parts = partitions(path)
    (esp,) = (part for part in parts if part.span.label == "esp")
    files = read_fat(path, esp.span.offset, tools, work)
    (uki,) = (entry for name, entry in files.items() if name.startswith("EFI/Linux/") and name.endswith(".efi"))
    sections = read_pe(uki.read())
    (root_hash,) = (
        word.removeprefix("roothash=")
        for word in sections[".cmdline"].read().decode().split()
        if word.startswith("roothash=")
    )
    by_label = {part.span.label: part.sha256 for part in parts}
    return Digests(sha256_of(path), by_label, uki.digest, sections[".initrd"].digest, root_hash)


def verdict(first: Path, second: Path, tools: Tools, work: Path) -> Verdict:
    """Compare the disk images *first* and *second*; *work* is a folder with room for what both hold."""
    folders = [work / f"{name}-{first.stat().st_ino}" for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    told = [digests(path, tools, folder) for path, folder in zip((first, second), folders, strict=True)]
    found = differences(first, second, tools, work) if told[0] != told[1] else ()
    return Verdict(told[0], found)


def rebuilt(
    store: Store,
    inputs: Mapping[str, bytes],
    roles: Sequence[Role],
    work: Path,
    circumstances: Circumstances,
    sources: Sources,
) -> dict[Role, Path]:
    """Build the images of *roles* again inside *work*, and return the disk of each.

    *inputs* are the operator's files, by the names that they get. Of *store* only the downloads are used, each hashed
    again; what it lacks comes from *sources*. Raises ImagebuilderError when the second build fails.
    """
    folder = _place(work, inputs, circumstances.user)
    command = [sys.executable, "-m", "imagebuilder", "verify", *roles, "--topology", str(folder / "topology.toml")]
    command += [f"--substituter={each.folder or each.location}" for each in sources.substituters]
    command += [f"--snapshot={sources.snapshot}"] if sources.snapshot else []
    environment = {name: value for name, value in os.environ.items() if name.lower().startswith(PASSED_ON)}
    environment |= {"IMAGEBUILDER_STORE": str(folder / "store")} | circumstances.environment
    say("building again, which takes minutes: " + ", ".join(f"{k} {v}" for k, v in circumstances.varied.items()))
    try:
        argv = circumstances.argv([*command, "--again-from", str(store.root)])
        printed = run(argv, env=environment, cwd=folder, umask=UMASK, name="the second build").text
    except ImagebuilderError as error:
        raise ImagebuilderError(
            str(error), hint="the first build went well: see what differs in circumstances"
        ) from error
    return {Role(role): Path(path) for role, path in json.loads(printed).items()}


def _place(work: Path, inputs: Mapping[str, bytes], user: str | None) -> Path:
    """Return a folder inside *work* for the second build, with *inputs*, where *user* may write and read."""
    folder = work / "elsewhere" / "again"
    folder.mkdir(parents=True)
    for name, content in inputs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for path in (folder.parent, folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if user:
        shutil.chown(folder, user)
    return folder


def build_again(
    store: Store, plan: Plan, sources: Sources, roles: Sequence[Role], downloads: Store
) -> Mapping[Role, Image]:
    """Build *roles* of *plan* in *store* by another clock; take what was downloaded from the store *downloads*."""
    if downloads.has(plan.npm_cache):
        # npm checks what is in there against its lock file when it installs.
        shutil.copytree(downloads.path(plan.npm_cache), store.path(plan.npm_cache))
    substituters = (Substituter(str(downloads.root / "files")), *sources.substituters)
    # Nobody's outputs, however signed: this is about what comes out here.
    sources = replace(sources, substituters=substituters, outputs=False)
    wanted = replace(plan, roles={role: plan.roles[role] for role in roles})
    return build(store, wanted, sources, clock=other_clock()).images
