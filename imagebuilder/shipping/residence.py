"""What resides on a disk, or on a running host's: whether it is the image of a generation, but for secrets and /var.

Reads disks; runs ssh.
"""

import contextlib
import hashlib
import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.gpt import HEAD_BYTES, Span, spans
from imagebuilder.shipping.remote import Address, HostKeyError, Shell, connected
from imagebuilder.store.hashing import sha256_of
from imagebuilder.topology import Role
from imagebuilder.topology.public import RoleKeys

BOOT_CODE_BYTES = 440
"""Of the first sector, what BIOS starts; a number of the disk's own and the table's first form follow it."""
PIECE_BYTES = 4 * 2**20
SECRETS = "secrets"
SCRIPT = """\
set -eu
disk=${1:-/dev/$(lsblk --noheadings --output PKNAME /dev/disk/by-partlabel/secrets)}
[ $# -eq 0 ] || shift
echo "roothash $(tr ' ' '\\n' </proc/cmdline | sed -n 's/^roothash=//p')"
while read -r offset length name; do
    said=$(tail -c +$((offset + 1)) "$disk" | head -c "$length" | sha256sum)
    echo "sha256 ${said%% *} $name"
done
"""
"""Run on a host, it prints the hash of each piece of its disk that is named on its standard input."""


def differences_on_disk(image: Image, disk: Path) -> tuple[str, ...]:
    """Return in what the disk at *disk* differs from *image*, a sentence each; nothing when it is the same.

    Compared are the code that BIOS starts and every partition that the image ships, but for the secrets. Partitions
    that the first boot adds are left alone.
    """
    wrong: list[str] = []
    try:
        descriptor = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # the disk is asked, not our memory of it
            there = {(span.label, span.offset, span.length) for span in spans(os.pread(descriptor, HEAD_BYTES, 0))}
            for span in _shipped(image):
                if span.offset and (span.label, span.offset, span.length) not in there:
                    wrong.append(f"{span.label}: there is no such partition at {span.offset:,}")
                elif span.label != SECRETS and _digest(descriptor, span) != _expected(image, span):
                    wrong.append(f"{span.label}: other bytes")
        finally:
            os.close(descriptor)
    except OSError as error:
        hint = "sudo, or a group that may read disks" if isinstance(error, PermissionError) else None
        raise ImagebuilderError(f"{disk} can't be read: {str(error.strerror).lower()}", hint=hint) from None
    return tuple(wrong)


def differences_on_host(image: Image, shell: Shell) -> tuple[str, ...]:
    """Return in what the running host at the end of *shell* differs from *image*, as `differences_on_disk` does.

    That it runs from this root is looked at, too.
    """
    return judged(image, shell.text(f"sh -c {shlex.quote(SCRIPT)} <<'END'\n{questions(image)}END\n"))


@contextlib.contextmanager
def addressed(host: Address, role: Role, keys: RoleKeys[str], gate: Address | None = None) -> Iterator[Address]:
    """Yield *host* as ssh reaches it, showing the key of *role* in *keys*; through the proxy at *gate*, if given.

    Tells what it means when another key is shown within the block.
    """
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known_hosts"
        known.write_text("".join(f"{role} {keys.of(role)}\n" for role in Role))
        host = _known_as(host, role, known)
        try:
            yield host.through(_known_as(gate, Role.PROXY, known)) if gate else host
        except HostKeyError:
            said = (
                f"{host.host}: its host key is not the one of this generation: another machine, or another generation"
            )
            raise HostKeyError(said, hint="imagebuilder generations tells what was shipped where") from None


@contextlib.contextmanager
def resident(host: Address, role: Role, keys: RoleKeys[str], gate: Address | None = None) -> Iterator[Shell]:
    """Yield a shell at *host*, as `addressed` reaches it; raise RemoteError when it can't be had."""
    with addressed(host, role, keys, gate) as address, connected(address) as shell:
        yield shell


def _known_as(address: Address, role: Role, known_hosts: Path) -> Address:
    """Return *address* whose key stands in *known_hosts* under the name of *role*."""
    return replace(address, known_hosts=known_hosts, options=(*address.options, f"HostKeyAlias={role}"))


def questions(image: Image) -> str:
    """Return what SCRIPT reads to tell of every piece of *image*."""
    asked = (span for span in _shipped(image) if span.label != SECRETS)
    return "".join(f"{span.offset} {span.length} {span.label}\n" for span in asked)


def judged(image: Image, said: str) -> tuple[str, ...]:
    """Return in what the host that *said* this differs from *image*."""
    words = [line.split(" ", 2) for line in said.splitlines()]
    running = next((word[1] for word in words if word[0] == "roothash"), "")
    found = {word[2]: word[1] for word in words if word[0] == "sha256"}
    wrong = [] if running == image.root_hash else [f"it runs from the root {running or 'without a hash'}"]
    for span in _shipped(image):
        if span.label != SECRETS and found.get(span.label) != _expected(image, span):
            wrong.append(f"{span.label}: other bytes")
    return tuple(wrong)


def _shipped(image: Image) -> Iterator[Span]:
    """Give the pieces of *image* that stay as they are: the code for BIOS, and its partitions."""
    yield Span("boot code", 0, BOOT_CODE_BYTES)
    with image.path.open("rb") as file:
        yield from spans(file.read(HEAD_BYTES))


def _expected(image: Image, span: Span) -> str:
    return sha256_of(image.path, span.offset, span.length)


def _digest(descriptor: int, span: Span) -> str:
    """Return the SHA-256 (hex) of *span* of the open disk."""
    digest, place, end = hashlib.sha256(), span.offset, span.offset + span.length
    while place < end and (piece := os.pread(descriptor, min(PIECE_BYTES, end - place), place)):
        digest.update(piece)
        place += len(piece)
    return digest.hexdigest()
