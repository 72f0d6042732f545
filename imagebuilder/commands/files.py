"""The operator's files: the topology, and what stands beside it under the same name."""

from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import WrongInputError
from imagebuilder.lock.model import Lock, read_lock
from imagebuilder.lock.overrides import read_overrides, unmet
from imagebuilder.plan import Plan, plan
from imagebuilder.topology import PublicKeys, Topology, load_public_keys, load_topology


@dataclass(frozen=True)
class Files:
    """A topology file and its companions."""

    topology: Path

    @property
    def lock(self) -> Path:
        """The exact inputs, made by `lock`."""
        return self.topology.with_suffix(".lock")

    @property
    def overrides(self) -> Path:
        """Packages that are pinned or held, if there are any; the operator's own file."""
        return self.topology.with_suffix(".overrides.toml")

    @property
    def public(self) -> Path:
        """The public halves of the keys, made by `init`."""
        return self.topology.with_suffix(".public.toml")

    @property
    def secrets(self) -> Path:
        """The keys, made by `init`; nobody else's business."""
        return self.topology.with_suffix(".secrets.toml")

    @property
    def denylist(self) -> Path:
        """Tests that are known to fail; may be missing."""
        return self.topology.with_suffix(".denylist.toml")

    @property
    def tests(self) -> Path:
        """The operator's own acceptance tests; may be missing."""
        return self.topology.parent / "tests"

    def read(self) -> tuple[Topology, PublicKeys, Lock]:
        """Return what the files say; each may raise, the topology first, and so do overrides that the lock ignores."""
        topology = load_topology(self.topology)
        public, lock = load_public_keys(self.public, topology), read_lock(self.lock)
        if problems := unmet(read_overrides(self.overrides), lock):
            raise WrongInputError(self.overrides.name, problems, hint=f"imagebuilder lock -t {self.topology}")
        return topology, public, lock

    def plan(self) -> Plan:
        """Return what building them means."""
        return plan(*self.read())
