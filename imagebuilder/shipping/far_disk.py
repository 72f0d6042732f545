"""A disk of another machine: what ordinary tools over there do to it, dd above all. Owns the scripts that run there."""

import gzip
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import zstandard

from imagebuilder.shipping.cells import Cell, Place
from imagebuilder.shipping.disks import COLUMNS, Disk, parsed
from imagebuilder.shipping.provision import MARGIN_BYTES
from imagebuilder.shipping.remote import RemoteError, Shell

NEEDED = ("dd", "flock", "lsblk", "sha256sum")
"""What every rescue system has, from util-linux and coreutils or from busybox."""
UNPACKERS = ("zstd", "gzip")
"""What can take compressed data over there, the better first."""
ZSTD_LEVEL = 3
MARK_OFFSET = MARGIN_BYTES // 2
"""Where the mark is, in the middle of what is written last."""
OLD_COLUMNS = COLUMNS.replace("MOUNTPOINTS", "MOUNTPOINT")
"""What lsblk knows before util-linux 2.37."""

LOCK = """\
lock=/run/imagebuilder-{name}.lock
[ -d /run ] || lock=/tmp/imagebuilder-{name}.lock
exec 9>>"$lock"
if ! flock -n 9; then
    read -r holder group <"$lock"
    if [ "$holder" = {who} ]; then
        # Our own, from a connection that has been cut without its knowing.
        kill -9 -- "-$group"
        tries=10
        until flock -n 9 || [ $tries -eq 0 ]; do
            tries=$((tries - 1))
            sleep 1
        done
    fi
fi
if flock -n 9; then
    read -r _ _ _ _ group _ </proc/$$/stat
    echo {who} "$group" >"$lock"
else
    echo "held $holder"
fi
"""

LOOK = """\
for program in {programs}; do command -v $program >/dev/null && echo "has $program"; done
echo "user $(id -u)"
echo "size $(lsblk --nodeps --noheadings --bytes --output SIZE {disk} | tr -d ' ')"
reading=iflag=fullblock writing=conv=notrunc,fsync
if dd if={disk} of=/dev/null bs=4096 count=1 iflag=direct,fullblock 2>/dev/null 9>&-; then
    reading=iflag=direct,fullblock writing='conv=notrunc oflag=direct'
fi
"""

HASHES = """\
sync
if [ "$reading" = iflag=fullblock ]; then
    {{ blockdev --flushbufs {disk}; echo 3 >/proc/sys/vm/drop_caches; }} 2>/dev/null
fi
while read -r block first count; do
    said=$(dd if={disk} bs=$block skip=$first count=$count $reading 2>/dev/null 9>&- | sha256sum 9>&-)
    echo "${{said%% *}}"
done <<'END'
{places}
END
"""

WRITE = """\
while read -r length block first count && [ $length != end ]; do
    said=$(take $length 9>&- | {unpack} 9>&- |
        dd of={disk} bs=$block seek=$first count=$count iflag=fullblock $writing 2>&1 9>&-)
    # What is still to come of the rest can't be told from scripts: this shell is of no more use.
    [ $? -eq 0 ] || {{ echo "failed $((block * first)) $said"; exit 0; }}
    echo "wrote $((block * first))"
done
"""

BEGIN = """\
clear() {{ dd if=/dev/zero of={disk} bs={margin} count=1 conv=notrunc,fsync 2>&1 9>&-; }}
forget() {{ blkdiscard {disk} >/dev/null 2>&1 9>&-; clear; }}
mark() {{
    printf '%s' {mark} | dd bs=4096 conv=sync 2>/dev/null 9>&- |
        dd of={disk} bs=4096 seek={seek} conv=notrunc,fsync 2>&1 9>&-
}}
said=$(clear && {forget} && mark) || echo "failed 0 $said"
"""
"""A disk that can forget all it holds at no cost need not be cleared where the image is empty."""

MARK = """\
dd if={disk} bs=4096 skip={seek} count=1 $reading 2>/dev/null 9>&- | head -c {length} | tr -cd '[:print:]'
"""


class FarDisk:
    """A disk at the other end of a shell."""

    def __init__(self, shell: Shell, path: Path, who: str) -> None:
        self.shell = shell
        self.path = path
        self._who = who
        self._unpacker = ""

    def __str__(self) -> str:
        return f"{self.path} of {self.shell.address.host}"

    def lock(self) -> None:
        """Make this shell the only one of ours that writes to the disk; raise RemoteError when another does."""
        said = self._run(LOCK, name=self.path.name, who=shlex.quote(self._who))
        if said.startswith("held"):
            holder = said.removeprefix("held").strip() or "somebody"
            raise RemoteError(
                f"{self} is being written by another upload, that of {holder}",
                hint="wait until it has ended; if it was cut off, the rescue system forgets it when it starts anew",
            )

    def look(self, size_bytes: int) -> None:
        """Find out by what means it is written; raise RemoteError when there are none, or it has not *size_bytes*."""
        said = self._run(LOOK, programs=" ".join((*NEEDED, *UNPACKERS)))
        words = [line.partition(" ") for line in said.splitlines()]
        there = {value for key, _, value in words if key == "has"}
        told = {key: value for key, _, value in words}
        host = self.shell.address.host
        if told.get("user") != "0":
            raise RemoteError(f"{self.shell.address} may not write to disks", hint=f"log in as root: ssh://root@{host}")
        self._unpacker = next((name for name in UNPACKERS if name in there), "")
        if missing := [name for name in (*NEEDED, self._unpacker or "gzip") if name not in there]:
            raise RemoteError(f"{host} has no {', no '.join(missing)}", hint="install it in the rescue system")
        if (found := told.get("size", "")) != str(size_bytes):
            raise RemoteError(f"{self} holds {found or 'no'} bytes, not {size_bytes:,}: it is another disk than before")

    def mark(self, length: int) -> str:
        """Return what stands where the mark is, so many bytes of it."""
        return self._run(MARK, seek=MARK_OFFSET // 4096, length=length)

    def begin(self, mark: str, *, forget: bool) -> None:
        """Take away what the disk starts by, and put *mark* there; with *forget* all that is on it, if it can."""
        values = {"margin": MARGIN_BYTES, "mark": shlex.quote(mark), "seek": MARK_OFFSET // 4096}
        self._check(self._run(BEGIN, forget="forget" if forget else ":", **values))

    def hashes(self, places: Iterable[Place]) -> Iterator[str]:
        """Give the SHA-256 of what is on the disk at each of *places*, past every cache."""
        asked = [place.blocks for place in places]
        if asked:
            yield from self.shell.lines(self._script(HASHES, places="\n".join(asked)))

    def write(self, places: Iterable[Place], cells: Iterable[Cell]) -> Iterator[int]:
        """Write *cells*, which are those of *places*, and give the offset of each when it is on the disk.

        Raises RemoteError when the disk fails.
        """
        unpack = f"{self._unpacker} -dc"
        for line in self.shell.lines(self._script(WRITE, unpack=unpack), self._packed(places, cells)):
            self._check(line)
            if line.startswith("wrote "):
                yield int(line.removeprefix("wrote "))

    def _check(self, line: str) -> None:
        """Raise RemoteError when *line* says that the disk has failed."""
        word, _, rest = line.partition(" ")
        if word == "failed":
            offset, _, said = rest.partition("\n")[0].partition(" ")
            raise RemoteError(
                f"{self} can't be written at {int(offset):,}: {said.rpartition(': ')[2].lower() or 'no reason given'}",
                hint="that disk is failing, or smaller than it says: nothing starts from it now",
            )

    def _packed(self, places: Iterable[Place], cells: Iterable[Cell]) -> Iterator[bytes]:
        """Give what WRITE reads for each of *cells*, then its end."""
        pack = _packer(self._unpacker)
        for place, cell in zip(places, cells, strict=True):
            packed = pack(cell.content)
            yield f"{len(packed)} {place.blocks}\n".encode() + packed
        yield b"end 0 0 0\n"

    def announce(self) -> None:
        """Let the system over there see the new partitions, if it can."""
        self._run("{{ blockdev --rereadpt {disk} || partprobe {disk}; }} >/dev/null 2>&1 9>&- || true")

    def _run(self, script: str, **values: object) -> str:
        return self.shell.text(self._script(script, **values))

    def _script(self, script: str, **values: object) -> str:
        return script.format(disk=shlex.quote(str(self.path)), **values)


def _packer(unpacker: str) -> Callable[[bytes], bytes]:
    """Return what compresses a cell for *unpacker*."""
    if unpacker == "zstd":
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
    return lambda content: gzip.compress(content, compresslevel=6, mtime=0)


def far_disks(shell: Shell) -> tuple[Disk, ...]:
    """Return every block device of the machine that *shell* is on, each before its partitions."""
    script = "lsblk --json --bytes --output {0} 2>/dev/null || lsblk --json --bytes --output {1}"
    try:
        return parsed(shell.text(script.format(COLUMNS, OLD_COLUMNS)))
    except ValueError:
        raise RemoteError(
            f"{shell.address.host} does not tell of its disks: it has no lsblk that prints JSON"
        ) from None


def restart(shell: Shell) -> None:
    """Let the machine start anew, in a moment."""
    shell.text("sync; (sleep 2; reboot || reboot -f) </dev/null >/dev/null 2>&1 9>&- &")
