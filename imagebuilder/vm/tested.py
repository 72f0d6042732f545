"""What a run is about, wherever its machines are. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.build.image import Image
from imagebuilder.tools import Tools
from imagebuilder.topology import PublicKeys, Role, Topology


@dataclass(frozen=True)
class Tested:
    """Images, and what they were made from."""

    images: Mapping[Role, Image]
    topology: Topology
    public: PublicKeys
    tools: Tools
    folder: Path
    """Where this run keeps reports; made if need be."""
