"""The operator's file: its model, its rules across tables, and reading it."""

from imagebuilder.topology.load import load_public_keys, load_topology
from imagebuilder.topology.model import Role, Suite, Topology
from imagebuilder.topology.public import PublicKeys

__all__ = ["PublicKeys", "Role", "Suite", "Topology", "load_public_keys", "load_topology"]
