"""What a take-over will do to a machine, told in advance. Pure."""

from dataclasses import asdict, dataclass

from imagebuilder.shipping.takeover.facts import Facts
from imagebuilder.shipping.takeover.network import settings_file, told
from imagebuilder.shipping.takeover.preflight import Judgement, Way

PASSAGES = {
    Way.KEXEC: ("load it by kexec, and remove the folder", "shut the old system down and enter the installer"),
    Way.SOFT_REBOOT: (
        "unpack it in memory, at /run/nextroot, and remove the folder",
        "shut the old system down but for its kernel, which stays until the new one starts, and enter the installer by "
        "soft-reboot",
    ),
}
"""How the installer is made ready there, and how it is entered."""


@dataclass(frozen=True)
class Itinerary:
    """A machine, what was found out about it, and where it goes from there."""

    where: str
    """The host, for people."""
    image: str
    """What it becomes, for people."""
    facts: Facts
    judgement: Judgement
    installer_bytes: int
    image_bytes: int
    """Of data, before compression."""
    patience_min: int
    """Minutes after which the installer returns to the old system when nobody comes."""

    @property
    def machine(self) -> tuple[str, ...]:
        """What the machine is, a line each."""
        facts, judgement = self.facts, self.judgement
        memory = f"{facts.memory_bytes / 2**20:,.0f} MiB of memory"
        lines = [f"machine: {facts.architecture}, {facts.machine}, {facts.firmware}, {memory}"]
        lines += [f"disk: {judgement.disk}"] if judgement.disk else []
        lines += [f"network: {told(judgement.network)}"] if judgement.network else []
        lines += [f"name servers: {', '.join(facts.resolvers)} (the proxy asks none)"] if facts.resolvers else []
        lines += [f"port 25 outbound: {facts.port_25 or 'not tried, --port-25 HOST does'}"]
        return tuple(lines)

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done, a sentence each; only the second last can't be undone."""
        disk = self.judgement.disk.path if self.judgement.disk else "the disk"
        size = f"{self.installer_bytes / 2**20:,.0f} MiB"
        ready, enter = PASSAGES[self.judgement.way]
        network = "with the network settings that it has now"
        return (
            f"send the installer ({size}) to a folder in the machine's memory, {network} and its own host keys",
            ready,
            f"{enter}; it returns if nobody comes for {self.patience_min} min",
            f"overwrite {disk} with {self.image} ({self.image_bytes / 2**20:,.0f} MiB of data) and its secrets"
            + (", and the network settings beside them" if self.judgement.carries_network else "")
            + ", and read everything back",
            "start the new system",
        )

    def text(self) -> str:
        """Return all of it for people."""
        lines = [self.where, *(f"  {line}" for line in self.machine)]
        lines += [f"  note: {remark}" for remark in self.judgement.remarks]
        lines += [f"{number}. {step}" for number, step in enumerate(self.steps, 1)]
        if self.judgement.carries_network and self.judgement.network:
            file = settings_file(self.judgement.network, fixed=False)
            lines += ["network settings that are carried over:", *(f"  {line}".rstrip() for line in file.splitlines())]
        return "\n".join(lines)

    def told(self) -> dict[str, object]:
        """Return all of it for machines."""
        judgement = self.judgement
        return {
            "host": self.where,
            "machine": self.facts.machine,
            "firmware": self.facts.firmware,
            "memory_bytes": self.facts.memory_bytes,
            "way": judgement.way,
            "disk": asdict(judgement.disk) if judgement.disk else None,
            "network": told(judgement.network) if judgement.network else None,
            "port_25": self.facts.port_25 or None,
            "carries_network": judgement.carries_network,
            "remarks": judgement.remarks,
            "problems": [str(problem) for problem in judgement.problems],
            "steps": self.steps,
        }
