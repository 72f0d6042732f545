"""One run of the bed: the world, the accelerator, the people, and the pair, made when first asked for."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import say
from imagebuilder.runs.history import KEPT
from imagebuilder.secrets.keys import Secrets
from imagebuilder.topology import Role
from imagebuilder.vm import faults
from imagebuilder.vm.accelerator import Accelerator, find_accelerator
from imagebuilder.vm.identity import Credentials, bed_credentials, identity_of
from imagebuilder.vm.mta import MailServer
from imagebuilder.vm.names import STRANGER_DOMAIN, STS_DOMAIN, foreign_domains
from imagebuilder.vm.pair import BootTimes, Pair, boots_linux
from imagebuilder.vm.people import Person, Stranger
from imagebuilder.vm.readiness import wait_until_certified, wait_until_mail_flows
from imagebuilder.vm.sightings import Sightings
from imagebuilder.vm.snapshots import Saved, Snapshots
from imagebuilder.vm.surroundings import Machines
from imagebuilder.vm.tested import Tested
from imagebuilder.vm.waiting import ExpectationError
from imagebuilder.vm.world import FOLDER, World


@dataclass(frozen=True)
class Subject(Tested):
    """What is tested in the bed, and what its machines need."""

    secrets: Secrets
    cache: Path
    """What is remembered between runs: the accelerator that was found, and booted pairs."""
    keep: bool = False
    """Whether the machines' disks stay in the folder."""


@dataclass
class Session:
    """The running bed; use it inside a namespace, by `session`."""

    subject: Subject
    world: World
    accelerator: Accelerator
    server: MailServer
    credentials: Credentials
    snapshots: Snapshots
    disks: Path
    times: BootTimes | None = None
    """Of the boot by UEFI, in this run or an earlier one."""
    boots: int = 0
    """How many boots this run needed; a pair that was kept needs none."""
    restores_s: list[float] = field(default_factory=list)
    seen: Sightings = field(default_factory=Sightings)
    """What goes into the run's record."""
    _pair: Pair | None = None
    _detached: bool = False
    """Whether the machines may have to find each other again."""
    _unbootable: str | None = None
    _saved: Saved | None = None
    _untouched: bool = False
    """Whether the pair is as fresh as when it was restored or booted."""
    _settled: bool = False
    """Whether nothing that used the pair left a trace that counts."""
    _keeps: bool = True
    """Whether it makes sense to try and keep a booted pair."""

    @property
    def reports(self) -> Path:
        """Folder of consoles and journals."""
        return self.subject.folder

    @property
    def passwords(self) -> Mapping[str, str]:
        """Of each mailbox."""
        return self.credentials.passwords

    def booted(self) -> Pair:
        """Return the pair, once booted by UEFI; the same at every call, in whatever state it is by now.

        A pair that did not boot is not tried again: each further call fails at once.
        """
        if self._unbootable is not None:
            raise ExpectationError(f"the pair did not boot: {self._unbootable}")
        if self._pair is None:
            pair = self.new_pair("")
            try:
                self._saved, self.times = self.bring_up(pair)
            except (ImagebuilderError, AssertionError) as error:
                self._unbootable = str(error)
                raise
            self._pair = pair
            self._untouched = True
            return pair
        self._untouched = False
        return self._pair

    def fresh(self) -> Pair:
        """Return the pair as it was when mail first flowed: restored, or booted anew when that fails."""
        pair = self.booted()
        self._settled = self._detached = False
        if self._untouched:
            self._untouched = False
            return pair
        if self._saved is not None:
            try:
                self.restores_s.append(pair.restore(self._saved))
            except (ImagebuilderError, AssertionError) as error:
                say(f"the saved pair can't be restored, so it boots instead: {error}")
            else:
                return pair
        pair.kill()
        self._pair = self._saved = None
        return self.booted()

    def settled(self) -> Pair:
        """Return a pair in which mail flows, and that was used by nobody but who asked for it this way; see `stir`."""
        if not self._settled or self._pair is None or not all(each.running for each in self._pair.machines.values()):
            self.fresh()
            self._settled = True
        assert self._pair is not None
        if self._detached:
            self._pair.reconnect()
        self._detached = False
        return self._pair

    def mend(self) -> None:
        """Take back all that was done to the world and, where it was a link, to the pair at its ends."""
        if self.world.mend() and self._pair is not None:
            faults.mend(self._pair)
            self._detached = True

    def stir(self) -> None:
        """Let the next one who asks for a settled pair get a fresh one: nobody knows what happened to this one."""
        self._settled = False

    def bring_up(self, pair: Pair) -> tuple[Saved | None, BootTimes]:
        """Let mail flow through *pair*: as it was kept by an earlier run, or by a boot, which is then kept.

        Return what to restore it from, None when it could not be kept, and how long its boot took.
        """
        parts = pair.parts()
        if (found := self._kept_before(pair, parts)) is not None:
            return found
        with self.snapshots.booting():
            if (found := self._kept_before(pair, parts)) is not None:  # by another run, meanwhile
                return found
            say(f"the pair boots; what differs from what is kept: {self.snapshots.difference(parts)}")
            times = self._boot(pair)
            if not self._keeps:
                return None, times
            if (saved := self._kept(pair, parts, times)) is not None:
                return saved, times
        self._keeps = False
        return None, self._boot(pair)

    def _kept_before(self, pair: Pair, parts: Mapping[str, str]) -> tuple[Saved, BootTimes] | None:
        """Go on from the pair like this that is kept, if there is one and mail flows through it."""
        saved = self.snapshots.find(parts)
        if saved is None or not self._goes_on(pair, saved):
            return None
        return saved, BootTimes.from_facts(saved.facts())

    def _goes_on(self, pair: Pair, saved: Saved) -> bool:
        """Restore *pair* from *saved*, of an earlier run, and return whether mail flows; forget *saved* if not."""
        try:
            self.restores_s.append(pair.restore(saved))
            self._wait_until_mail_flows(pair)
            self._wait_until_certified(pair)
        except (ImagebuilderError, AssertionError) as error:
            say(f"the kept pair can't be restored, so it boots instead: {error}")
            pair.kill()
            self.snapshots.drop(saved)
            return False
        say(f"the pair was kept by an earlier run, restored in {self.restores_s[-1]:.1f} s")
        return True

    def _kept(self, pair: Pair, parts: Mapping[str, str], times: BootTimes) -> Saved | None:
        """Save the booted *pair* and go on from there; return None, with the pair off, when that can't be."""
        saved: Saved | None = None
        try:
            with self.snapshots.draft() as draft:
                pair.save(draft)
                saved = self.snapshots.keep(draft, parts, times.facts())
            say(f"the booted pair is kept for later runs: {saved.bytes_on_disk / 2**20:,.0f} MiB")
            self.restores_s.append(pair.restore(saved))
        except (ImagebuilderError, AssertionError, OSError) as error:
            say(f"the booted pair can't be kept, so it boots again: {error}")
            pair.kill()
            if saved is not None:
                self.snapshots.drop(saved)
            return None
        return saved

    def _wait_until_mail_flows(self, pair: Pair) -> None:
        wait_until_mail_flows(self.world, self.accelerator.patience, lambda: machines_off(pair, *Role))

    def _wait_until_certified(self, pair: Pair) -> None:
        """Return when both hosts have certificates from the authority, which people of the world insist on."""
        started = time.monotonic()
        wait_until_certified(self.world, self.accelerator.patience, lambda: machines_off(pair, *Role))
        say(f"certificates of the authority are shown {time.monotonic() - started:.1f} s later")

    def _boot(self, pair: Pair) -> BootTimes:
        self.boots += 1
        try:
            times = pair.boot(lambda: self._wait_until_mail_flows(pair))
            self._wait_until_certified(pair)
        except (ImagebuilderError, AssertionError) as error:
            error.add_note(pair.report())
            pair.kill()
            raise
        return times

    def new_pair(self, suffix: str) -> Pair:
        """Return another pair, switched off; only one pair can be on at a time, as the cables are shared."""
        disks = self.disks / (suffix or "pair")
        disks.mkdir(exist_ok=True)
        reports = self.reports / suffix
        reports.mkdir(exist_ok=True)
        return Pair(
            self.world,
            self.subject.images,
            self.credentials,
            self.accelerator,
            disks=disks,
            reports=reports,
        )

    def switch_off(self) -> None:
        """Pull the plug of the pair; the next one that is asked for is restored, or boots."""
        if self._pair is not None:
            self._pair.kill()
            self._untouched = self._settled = False
            if self._saved is None:
                self._pair = None

    @property
    def pair(self) -> Pair | None:
        """The pair, if there is one yet; for reports."""
        return self._pair

    def person(self, number: int) -> Person:
        """Return the person with the *number*-th mailbox that takes mail; after the topology's come the guests."""
        receiving = [box.address for box in self.subject.topology.mail.mailboxes if not box.send_only]
        return self.owner_of([*receiving, *(guest.address for guest in self.credentials.guests)][number])

    def owner_of(self, address: str) -> Person:
        """Return the person whose mailbox is *address*."""
        return Person(
            address,
            self.passwords[address],
            self.subject.topology,
            self.world.user,
            self.accelerator.patience,
            self.world.user_trust,
            arrived=self.seen.arrived,
        )

    def stranger(self) -> Stranger:
        """Return the stranger."""
        return Stranger(
            self.subject.topology,
            self.world.stranger,
            self.server,
            self.accelerator.patience,
            self.world.trust,
            arrived=self.seen.arrived,
            judged=self.seen.judged,
        )


def machines_off(pair: Machines, *roles: Role) -> str:
    """Return in words which machines of *pair* are off; nothing when those of *roles* all run."""
    return ", ".join(f"{role} is off" for role in roles if not pair.machines[role].running)


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
    root = kept_root(subject.cache, disks)
    identity = identity_of(root / "identities", subject.topology, subject.secrets)
    own = bed_credentials(identity, subject.topology, subject.secrets, subject.public)
    snapshots = Snapshots(root / "pairs")
    with World(subject.tools, subject.topology, own.public, identity=identity) as world:
        domains = (STRANGER_DOMAIN, STS_DOMAIN, *foreign_domains(subject.topology))
        server = MailServer(subject.tools, world.stranger, FOLDER / "stranger", domains, world.certificate)
        server.start()
        running = Session(subject, world, accelerator, server, own, snapshots, disks)
        try:
            yield running
        finally:
            running.switch_off()
            server.stop()
            snapshots.close()


def kept_root(cache: Path, disks: Path) -> Path:
    """Return the private folder of what is kept from run to run; in *disks*, so not for long, if it is another's."""
    root = cache / "snapshots"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        root.chmod(0o700)
    except PermissionError:
        say(f"nothing is kept of this run, as {root} belongs to somebody else")
        return disks
    return root


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
