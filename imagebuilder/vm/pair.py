"""The proxy and the client of a topology, booted side by side in a world; saved and restored. Owns their disks."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imagebuilder.build.image import Image
from imagebuilder.errors import ImagebuilderError
from imagebuilder.run import say
from imagebuilder.services.certificate import PRIVATE_ROOT, PUBLIC_ROOTS
from imagebuilder.services.haraka_out import RELAY_PORT
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm import agent
from imagebuilder.vm.accelerator import KVM_DEVICES, Accelerator, processor, qemu_version
from imagebuilder.vm.disks import move_sparsely, overlay, provision, qcow2, raw
from imagebuilder.vm.identity import Credentials
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.qemu import OVMF_VARIABLES, Acceleration, Hardware, Nic, mac_address, qemu_argv
from imagebuilder.vm.snapshots import Saved
from imagebuilder.vm.world import CABLE_ENDS, FOLDER, World

MEMORY_MIB = {Role.PROXY: 1024, Role.CLIENT: 2048}
"""Memory of each machine; the proxy's is that of the reference VPS."""
ROOT_CERTIFICATE = "/run/bed-root.pem"
"""Where the machine finds the root certificate of the world."""
CERTIFICATE_USERS = ("caddy", "acme", "haraka-out")
"""Units that ask the authority, or verify servers."""
ROOT_KEY = "/run/bed-root.key"
"""Where the machine finds the key of the world's root zone."""
EMULATED_DEADLINE_S = 1200.0
"""Seconds that a machine without a processor of its own may wait for a device or a service while booting."""
TUNNEL_S = 10.0
"""Seconds that the tunnel may take to pass the first packets after a pause."""


@dataclass(frozen=True)
class BootTimes:
    """Seconds from power-on, of one boot of the pair."""

    hello_s: dict[Role, float]
    settled_s: dict[Role, float]
    mail_ready_s: float

    def facts(self) -> dict[str, object]:
        """Return them as they are kept."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "BootTimes":
        """Return what *facts* made of them."""
        hello, settled = ({Role(role): s for role, s in facts[name].items()} for name in ("hello_s", "settled_s"))
        return cls(hello, settled, facts["mail_ready_s"])


class Pair:
    """Both machines, from *images*; nothing is ever written to these."""

    def __init__(
        self,
        world: World,
        images: Mapping[Role, Image],
        credentials: Credentials,
        accelerator: Accelerator,
        *,
        disks: Path,
        reports: Path,
    ) -> None:
        self.world = world
        self.images = images
        self._tools = world.tools
        self._credentials = credentials
        self._accelerator = accelerator
        self._disks = disks
        self._reports = reports
        self._count = 0
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
        self._next_disks()
        for role in Role:
            overlay(self._tools, raw(self.images[role].path), self._disk(role))
            files = self._credentials.files(self.world.topology, role)
            provision(self._tools, self.images[role], files, self._disk(role))
            shutil.copyfile(self._tools.tree / OVMF_VARIABLES.relative_to("/"), self._variables(role))
            self.machines[role] = self._machine(role)
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

    def save(self, folder: Path) -> None:
        """Freeze both machines and switch them off; lay down in *folder* all that Saved needs to go on from here."""
        for machine in self.machines.values():
            machine.freeze()
        saved = Saved(folder)
        for role, machine in self.machines.items():
            state = self._disks / f"{role}.state"
            machine.keep(state)
            memory = saved.memory(role)
            moves = (
                (self._disk(role), saved.disk(role)),
                (self._variables(role), saved.variables(role)),
                (self._ram(role), memory.ram),
                (state, memory.state),
            )
            for source, target in moves:
                move_sparsely(source, target)
            for source, target in zip((machine.console_file, machine.journal_file), saved.story(role), strict=True):
                shutil.copyfile(source, target)

    def restore(self, saved: Saved) -> float:
        """Switch off what runs, go on from *saved* with fresh disks over its disks; return the seconds it took.

        The clocks of the machines are set to this host's, as they stood still meanwhile, and the tunnel is up.
        """
        started = time.monotonic()
        self.kill()
        self._next_disks()

        def restore(role: Role) -> None:
            shutil.copyfile(self._empty_layer(role, saved), self._disk(role))
            shutil.copyfile(saved.variables(role), self._variables(role))
            machine = self.machines[role] = self._machine(role, saved)
            for source, target in zip(saved.story(role), (machine.console_file, machine.journal_file), strict=True):
                if not target.exists():
                    shutil.copyfile(source, target)
            machine.resume(saved.memory(role))

        with ThreadPoolExecutor(len(Role)) as threads:
            list(threads.map(restore, Role))
        self._on_both(self._wake)
        return time.monotonic() - started

    def reconnect(self) -> None:
        """Open the way through the tunnel, both ways, after the lines between the machines have changed."""
        self.client.succeed(self._call())

    def _wake(self, machine: Machine) -> None:
        """Set the clock of *machine*; from the client open the way through the tunnel, both ways."""
        machine.set_clock(further=self._call() if machine is self.client else "true")

    def _call(self) -> str:
        """Return the script by which the client calls the proxy until it answers."""
        # The home line's router may know nothing of the tunnel until something goes out: the proxy could not call.
        limit = self._accelerator.patience.seconds(TUNNEL_S)
        attempt = f"( exec 5<>/dev/tcp/{self.world.topology.tunnel.proxy_address}/{RELAY_PORT} ) 2>/dev/null"
        again = f"(( SECONDS < {limit:.0f} )) || exit 1; sleep 0.1"
        return f"SECONDS=0; until {attempt}; do {again}; done"

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
        with ThreadPoolExecutor(len(self.machines)) as threads:
            list(threads.map(lambda machine: machine.kill(), self.machines.values()))

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

    def _empty_layer(self, role: Role, saved: Saved) -> Path:
        """Return a disk over that of *saved* that nothing was written to, made once: a copy takes no time."""
        layer = self._disks / f"{role}.over-{saved.folder.name}.qcow2"
        if not layer.exists():
            overlay(self._tools, qcow2(saved.disk(role), self.images[role].path), layer)
        return layer

    def _next_disks(self) -> None:
        """Remove the disks that were written to, and take new names."""
        for role in Role:
            for path in (self._disk(role), self._variables(role), self._ram(role)):
                path.unlink(missing_ok=True)
        self._count += 1

    def _disk(self, role: Role) -> Path:
        return self._disks / f"{role}.{self._count}.qcow2"

    def _variables(self, role: Role) -> Path:
        return self._disks / f"{role}.{self._count}.variables"

    def _ram(self, role: Role) -> Path:
        # In memory: on a disk the kernel would write it back all the time, which slows the machine down.
        return FOLDER / str(role) / f"{self._count}.ram"

    def _machine(self, role: Role, saved: Saved | None = None) -> Machine:
        """Return the machine of *role*, off; to go on from *saved*, or with its RAM in a file that can be kept."""
        folder = FOLDER / str(role)
        folder.mkdir(parents=True, exist_ok=True)
        hardware = self.hardware(role, folder)
        return Machine(
            hardware if saved else replace(hardware, ram=self._ram(role)),
            self._tools,
            reports=self._reports,
            network=self.world.network_of(role),
            patience=self._accelerator.patience,
            read=[self.images[role].path, *([saved.folder] if saved else [])],
            write=[self._disks],
            devices=self._accelerator.devices,
        )

    def hardware(self, role: Role, folder: Path) -> Hardware:
        """Return the machine of *role*, its sockets in *folder*."""
        return Hardware(
            name=str(role),
            folder=folder,
            memory_mib=MEMORY_MIB[role],
            acceleration=self._accelerator.kind,
            disk=self._disk(role),
            variables=self._variables(role),
            nics=(Nic(CABLE_ENDS[role], mac_address(role), self.world.cable),),
            boot_deadline_s=EMULATED_DEADLINE_S if self._accelerator.kind is Acceleration.TCG else None,
            credentials=tuple(
                (agent.credentials() | trust_credentials(self.world.dns.trust_anchor, self.world.issuer.pem)).items()
            ),
        )

    def parts(self) -> dict[str, str]:
        """Return all that a booted pair is determined by, named: what a saved one is found by."""
        parts = {
            "topology": self.world.topology.model_dump_json(),
            "names and addresses of the world": f"{self.world.places} {self.world.records} {self.world.routers}",
            "keys of the bed": self.world.identity.digest,
            "QEMU": qemu_version(self._tools),
            "processor": processor() if self._accelerator.kind is Acceleration.KVM else "emulated",
        }
        for role in Role:
            parts[f"image of the {role}"] = self.images[role].sha256
            argv = qemu_argv(self.hardware(role, FOLDER / str(role)), console=FOLDER, journal=FOLDER)
            own = (str(self._disk(role)), str(self._variables(role)))
            text = " ".join(argv).replace(own[0], "DISK").replace(own[1], "VARIABLES")
            parts[f"machine of the {role}"] = hashlib.sha256(text.encode()).hexdigest()
        return parts


def trust_credentials(trust_anchor: str, root: str) -> dict[str, bytes]:
    """Return the credentials that make a machine trust the world's root zone and its root certificate, PEM. Pure."""
    pem = root.replace("\n", "\\n")
    files = f"f {ROOT_KEY} 0644 root root - {trust_anchor}\nf {ROOT_CERTIFICATE} 0644 root root - {pem}\n"
    names = f"[Service]\nBindReadOnlyPaths={ROOT_KEY}:/usr/share/dns/root.key\n"
    roots = "".join(f"BindReadOnlyPaths={ROOT_CERTIFICATE}:{place}\n" for place in (PUBLIC_ROOTS, PRIVATE_ROOT))
    dropins = dict.fromkeys(CERTIFICATE_USERS, f"[Service]\n{roots}") | {"unbound": names}
    return {
        "tmpfiles.extra": files.encode(),
        **{f"systemd.unit-dropin.{unit}.service~bed": text.encode() for unit, text in dropins.items()},
    }


def boots_linux(tools: Tools, image: Image, folder: Path, kind: Acceleration) -> bool:
    """Return whether *image* gets as far as its root shell when run by *kind*; for find_accelerator."""
    disk, variables, sockets = folder / "probe.qcow2", folder / "probe.variables", FOLDER / "probe"
    sockets.mkdir(parents=True, exist_ok=True)
    overlay(tools, raw(image.path), disk)
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
