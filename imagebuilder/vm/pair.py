"""The proxy and the client of a topology, booted side by side in a world; saved and restored. Owns their disks."""

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.provision import nameless, secrets_filesystem
from imagebuilder.run import run, say
from imagebuilder.secrets import Secrets, credentials
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm import agent
from imagebuilder.vm.accelerator import KVM_DEVICES, Accelerator
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.qemu import OVMF_VARIABLES, Acceleration, Firmware, Hardware, Nic, mac_address
from imagebuilder.vm.world import FOLDER, TAPS, World

DISK_GIB = 12
"""Size of each machine's disk, as the reference VPS has about that."""
MEMORY_MIB = {Role.PROXY: 1024, Role.CLIENT: 2048}
"""Memory of each machine; the proxy's is that of the reference VPS."""
ROOT_KEY = "/run/bed-root.key"
"""Where the machine finds the key of the world's root zone."""
SAVE_S = 60.0
"""Seconds that writing or reading the memory may take."""
MAPPED_RAM = ({"capability": "mapped-ram", "state": True},)


@dataclass(frozen=True)
class Saved:
    """A booted pair at rest: disks that nobody writes to any more, and the memories that go with them."""

    disks: Mapping[Role, Path]
    memories: Mapping[Role, Path]
    variables: Mapping[Role, Path]


@dataclass
class BootTimes:
    """Seconds from power-on, of one boot of the pair."""

    hello_s: dict[Role, float]
    settled_s: dict[Role, float]
    mail_ready_s: float


class Pair:
    """Both machines, from *images*; nothing is ever written to these."""

    def __init__(
        self,
        world: World,
        images: Mapping[Role, Image],
        secrets: Secrets,
        accelerator: Accelerator,
        *,
        disks: Path,
        reports: Path,
        firmware: Firmware = Firmware.UEFI,
    ) -> None:
        self.world = world
        self.images = images
        self.firmware = firmware
        self._tools = world.tools
        self._secrets = secrets
        self._accelerator = accelerator
        self._disks = disks
        self._reports = reports
        self._count = 0
        self._disk = {role: disks / f"{role}.qcow2" for role in Role}
        self._variables = {role: disks / f"{role}.variables" for role in Role}
        for role in Role:
            overlay(self._tools, images[role].path, "raw", self._disk[role])
            provision(self._tools, images[role], credentials(secrets, world.topology, role), self._disk[role])
            shutil.copyfile(world.tools.tree / OVMF_VARIABLES.relative_to("/"), self._variables[role])
        self.machines = {role: self._machine(role) for role in Role}

    @property
    def proxy(self) -> Machine:
        """The machine on the Internet."""
        return self.machines[Role.PROXY]

    @property
    def client(self) -> Machine:
        """The machine at home."""
        return self.machines[Role.CLIENT]

    def boot(self, mail_ready: Callable[[], None]) -> BootTimes:
        """Switch both on, wait until systemd settled on both and *mail_ready* returns; return how long it took."""
        started = time.monotonic()
        for machine in self.machines.values():
            machine.start()
        self._on_both(lambda machine: machine.wait_for_boot())
        mail_ready()
        ready = time.monotonic() - started
        times = BootTimes(
            {role: machine.hello_s or 0.0 for role, machine in self.machines.items()},
            {role: machine.settled_s or 0.0 for role, machine in self.machines.items()},
            ready,
        )
        for role in Role:
            say(f"{role}: shell after {times.hello_s[role]:.1f} s, settled after {times.settled_s[role]:.1f} s")
        say(f"mail flows after {ready:.1f} s")
        return times

    def save(self) -> Saved:
        """Freeze both machines, write their memories down, and switch them off; their disks stay as they are."""
        memories = {role: self._disks / f"{role}.memory" for role in Role}
        for machine in self.machines.values():
            machine.freeze()

        def write(role: Role) -> None:
            machine = self.machines[role]
            memories[role].unlink(missing_ok=True)
            machine.qmp.command("migrate-set-capabilities", capabilities=list(MAPPED_RAM))
            machine.qmp.command("migrate", uri=f"file:{memories[role]}")
            machine.qmp.wait_for_migration(timeout_s=machine.patience.seconds(SAVE_S))
            machine.kill()

        with ThreadPoolExecutor(len(Role)) as threads:
            list(threads.map(write, Role))
        return Saved(dict(self._disk), memories, dict(self._variables))

    def restore(self, saved: Saved) -> float:
        """Switch off what runs, go on from *saved* with fresh disks over its disks; return the seconds it took.

        The clocks of the machines are set to this host's, as they stood still meanwhile.
        """
        started = time.monotonic()
        self.kill()
        self._count += 1
        for role in Role:
            self._drop_disk(role, saved)
            self._disk[role] = self._disks / f"{role}.{self._count}.qcow2"
            self._variables[role] = self._disks / f"{role}.{self._count}.variables"
            shutil.copyfile(saved.variables[role], self._variables[role])
            self.machines[role] = self._machine(role)

        def read(role: Role) -> None:
            overlay(self._tools, saved.disks[role], "qcow2", self._disk[role])
            machine = self.machines[role]
            machine.start(resume=True)
            machine.qmp.command("migrate-set-capabilities", capabilities=list(MAPPED_RAM))
            machine.qmp.command("migrate-incoming", uri=f"file:{saved.memories[role]}")
            machine.qmp.wait_for_migration(timeout_s=machine.patience.seconds(SAVE_S))

        with ThreadPoolExecutor(len(Role)) as threads:
            list(threads.map(read, Role))
        for machine in self.machines.values():
            machine.unfreeze()
            machine.resumed()
        self._on_both(lambda machine: machine.set_clock())
        return time.monotonic() - started

    def flip_byte(self, role: Role, offset: int) -> None:
        """Change the byte at *offset* of a running machine's disk, as failing hardware does; the image stays whole."""
        sector = offset // 512 * 512
        with self.images[role].path.open("rb") as disk:
            disk.seek(offset)
            before = disk.read(1)[0]
        machine = self.machines[role]
        said = machine.qmp.monitor(f'qemu-io disk "write -P {before ^ 0xFF} {sector} 512"')
        if said.strip():  # what it did is told to QEMU's own standard output, only errors to us
            raise ImagebuilderError(f"QEMU did not write to the disk of {role}: {said.strip()}")

    def kill(self) -> None:
        """Pull the plug of both."""
        for machine in self.machines.values():
            machine.kill()

    def stop(self) -> None:
        """Switch both off in good order."""
        self._on_both(lambda machine: machine.stop())

    def report(self) -> str:
        """Return the ends of console and journal of both."""
        return "\n".join(machine.report() for machine in self.machines.values())

    def _on_both(self, act: Callable[[Machine], object]) -> None:
        """Do *act* to both at once; when one fails, or the operator interrupts, the other is not waited for."""
        with ThreadPoolExecutor(len(self.machines)) as threads:
            under_way = [threads.submit(act, machine) for machine in self.machines.values()]
            try:
                for done in as_completed(under_way):
                    done.result()
            except BaseException:
                self.kill()  # ends the other's wait
                raise

    def _drop_disk(self, role: Role, saved: Saved) -> None:
        if self._disk[role] != saved.disks[role]:
            self._disk[role].unlink(missing_ok=True)
            self._variables[role].unlink(missing_ok=True)

    def _machine(self, role: Role) -> Machine:
        folder = FOLDER / str(role)
        folder.mkdir(parents=True, exist_ok=True)
        return Machine(
            self.hardware(role, folder),
            self._tools,
            reports=self._reports,
            network=self.world.network_of(role),
            patience=self._accelerator.patience,
            read=[self.images[role].path],
            write=[self._disks, Path("/dev/net")],
            devices=self._accelerator.devices,
        )

    def hardware(self, role: Role, folder: Path) -> Hardware:
        """Return the machine of *role*, its sockets in *folder*."""
        return Hardware(
            name=str(role),
            folder=folder,
            memory_mib=MEMORY_MIB[role],
            acceleration=self._accelerator.kind,
            disk=self._disk[role],
            firmware=self.firmware,
            variables=self._variables[role],
            nics=(Nic(TAPS[role], mac_address(role)),),
            credentials=tuple((agent.credentials() | root_key_credentials(self.world.dns.trust_anchor)).items()),
        )


def root_key_credentials(trust_anchor: str) -> dict[str, bytes]:
    """Return the credentials that make unbound in a machine trust the world's root zone. Pure."""
    dropin = f"[Service]\nBindReadOnlyPaths={ROOT_KEY}:/usr/share/dns/root.key\n"
    return {
        "tmpfiles.extra": f"f {ROOT_KEY} 0644 root root - {trust_anchor}\n".encode(),
        "systemd.unit-dropin.unbound.service~bed": dropin.encode(),
    }


def overlay(tools: Tools, base: Path, base_format: str, path: Path) -> None:
    """Make *path* a disk that shows *base* and keeps what is written to it."""
    path.unlink(missing_ok=True)
    # -u: the base is not opened, as what lies below it may not be in sight here
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", str(base), "-F", base_format, str(path)]
    run(tools.argv([*argv, f"{DISK_GIB}G"], write=[path.parent]))


def provision(tools: Tools, image: Image, files: Mapping[str, bytes], disk: Path) -> None:
    """Write the credentials *files* into the secrets partition of *disk*, an overlay over *image*."""
    filesystem = secrets_filesystem(tools, files, limit_bytes=image.secrets_size)

    def write(path: str) -> None:
        Path(path).write_bytes(filesystem)
        order = f"write -q -s {path} {image.secrets_offset} {len(filesystem)}"
        run(tools.argv(["qemu-io", "-f", "qcow2", "-c", order, str(disk)], read=[image.path], write=[disk.parent]))

    nameless(write)


def boots_linux(tools: Tools, image: Image, folder: Path, kind: Acceleration) -> bool:
    """Return whether *image* gets as far as its root shell when run by *kind*; for find_accelerator."""
    disk, variables, sockets = folder / "probe.qcow2", folder / "probe.variables", FOLDER / "probe"
    sockets.mkdir(parents=True, exist_ok=True)
    overlay(tools, image.path, "raw", disk)
    shutil.copyfile(tools.tree / OVMF_VARIABLES.relative_to("/"), variables)
    hardware = Hardware(
        "probe", sockets, MEMORY_MIB[image.role], kind, disk, variables=variables,
        credentials=tuple(agent.credentials().items()),
    )  # fmt: skip
    devices = KVM_DEVICES if kind is Acceleration.KVM else ()
    machine = Machine(hardware, tools, reports=folder, read=[image.path], write=[folder], devices=devices)
    try:
        machine.start()
        machine.wait_for_hello()
    except ImagebuilderError as error:
        say(f"a probe boot with {kind} failed: {error}")
        return False
    finally:
        machine.kill()
        disk.unlink()
    return True
