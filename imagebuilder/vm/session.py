"""One run of the bed: the world, the accelerator, the people, and the pair, made when first asked for."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.history import KEPT
from imagebuilder.run import say
from imagebuilder.secrets import Secrets, new_password, with_passwords
from imagebuilder.tools import Tools
from imagebuilder.topology import PublicKeys, Role, Topology
from imagebuilder.vm.accelerator import Accelerator, find_accelerator
from imagebuilder.vm.mta import MailServer
from imagebuilder.vm.pair import BootTimes, Pair, Saved, boots_linux
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.qemu import Firmware
from imagebuilder.vm.readiness import wait_until_mail_flows
from imagebuilder.vm.sightings import Sightings
from imagebuilder.vm.waiting import ExpectationError
from imagebuilder.vm.world import FOLDER, STRANGER_DOMAIN, World


@dataclass(frozen=True)
class Subject:
    """What is tested: images and what belongs to them."""

    images: Mapping[Role, Image]
    topology: Topology
    public: PublicKeys
    secrets: Secrets
    tools: Tools
    folder: Path
    """Where this run keeps reports; made if need be."""
    cache: Path
    """Where the accelerator that was found is remembered between runs."""
    keep: bool = False
    """Whether the machines' disks stay in the folder."""


@dataclass
class Session:
    """The running bed; use it inside a namespace, by `session`."""

    subject: Subject
    world: World
    accelerator: Accelerator
    server: MailServer
    passwords: Mapping[str, str]
    disks: Path
    times: BootTimes | None = None
    restores_s: list[float] = field(default_factory=list)
    seen: Sightings = field(default_factory=Sightings)
    """What goes into the run's record."""
    _pair: Pair | None = None
    _unbootable: str | None = None
    _saved: Saved | None = None

    @property
    def reports(self) -> Path:
        """Folder of consoles and journals."""
        return self.subject.folder

    def booted(self) -> Pair:
        """Return the pair, booted by UEFI; the same at every call, in whatever state it is by now.

        A pair that did not boot is not tried again: each further call fails at once.
        """
        if self._unbootable is not None:
            raise ExpectationError(f"the pair did not boot: {self._unbootable}")
        if self._pair is None:
            pair = self.new_pair("")
            try:
                self.times = pair.boot(lambda: wait_until_mail_flows(self.world, self.accelerator.patience))
            except (ImagebuilderError, AssertionError) as error:
                self._unbootable = str(error)
                error.add_note(pair.report())
                pair.kill()
                raise
            self._pair = pair
        return self._pair

    def fresh(self) -> Pair:
        """Return the pair as it was when mail first flowed: restored, or booted anew when that fails."""
        pair = self.booted()
        try:
            if self._saved is None:
                self._saved = pair.save()
            self.restores_s.append(pair.restore(self._saved))
            wait_until_mail_flows(self.world, self.accelerator.patience)
        except (ImagebuilderError, AssertionError) as error:
            say(f"the saved pair can't be restored, so it boots instead: {error}")
            pair.kill()
            self._pair = self._saved = None
            return self.booted()
        return pair

    def new_pair(self, suffix: str, *, firmware: Firmware = Firmware.UEFI) -> Pair:
        """Return another pair, switched off; only one pair can be on at a time, as the cables are shared."""
        disks = self.disks / (suffix or "pair")
        disks.mkdir(exist_ok=True)
        reports = self.reports / suffix
        reports.mkdir(exist_ok=True)
        return Pair(
            self.world,
            self.subject.images,
            with_passwords(self.subject.secrets, self.passwords),
            self.accelerator,
            disks=disks,
            reports=reports,
            firmware=firmware,
        )

    def switch_off(self) -> None:
        """Pull the plug of the pair; the next one that is asked for is restored, or boots."""
        if self._pair is not None:
            self._pair.kill()
            if self._saved is None:
                self._pair = None

    @property
    def pair(self) -> Pair | None:
        """The pair, if there is one yet; for reports."""
        return self._pair

    def person(self, number: int) -> Person:
        """Return the person with the *number*-th mailbox that takes mail."""
        addresses = [box.address for box in self.subject.topology.mail.mailboxes if not box.send_only]
        return Person(
            addresses[number],
            self.passwords[addresses[number]],
            self.subject.topology,
            self.world.user,
            self.accelerator.patience,
            arrived=self.seen.arrived,
        )

    def persons(self) -> int:
        """Return how many persons there are."""
        return sum(1 for box in self.subject.topology.mail.mailboxes if not box.send_only)

    def stranger(self) -> Stranger:
        """Return the stranger."""
        return Stranger(
            self.subject.topology,
            self.world.stranger,
            self.server,
            self.accelerator.patience,
            arrived=self.seen.arrived,
            judged=self.seen.judged,
        )


@contextmanager
def session(subject: Subject) -> Iterator[Session]:
    """Yield the running bed of *subject*; to be called inside a namespace."""
    subject.folder.mkdir(parents=True, exist_ok=True)
    with private_disks(subject.folder, keep=subject.keep) as disks:
        yield from _running(subject, disks)


def _running(subject: Subject, disks: Path) -> Iterator[Session]:
    probed = subject.images[Role.PROXY]
    accelerator = find_accelerator(
        subject.tools, subject.cache, boots_linux=lambda kind: boots_linux(subject.tools, probed, disks, kind)
    )
    passwords = {box.address: new_password() for box in subject.topology.mail.mailboxes}
    with World(subject.tools, subject.topology, subject.public) as world:
        server = MailServer(subject.tools, world.stranger, FOLDER / "stranger", STRANGER_DOMAIN)
        server.start()
        running = Session(subject, world, accelerator, server, passwords, disks)
        try:
            yield running
        finally:
            running.switch_off()
            server.stop()


@contextmanager
def private_disks(folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yield an empty folder in *folder* for disks, gone afterwards; first remove those that killed runs left.

    With *keep* it has another name, stays, and nobody removes it.
    """
    for left in folder.parent.glob("*/disks"):
        with suppress(FileNotFoundError), _held(left) as dead:
            if dead:
                shutil.rmtree(left)
    if keep:
        (folder / KEPT).mkdir()
        yield folder / KEPT
        return
    new, disks = folder / "disks.new", folder / "disks"
    new.mkdir(exist_ok=True)
    with _held(new):
        new.rename(disks)  # held before anybody else can take it for a dead one
        try:
            yield disks
        finally:
            shutil.rmtree(disks)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold *folder* as long as this process lives, and yield whether nobody else does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
