"""What every service module is made of. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from imagebuilder.topology import PublicKeys, Role, Topology


@dataclass(frozen=True)
class Site:
    """All that a service may look at when it makes its values."""

    topology: Topology
    public: PublicKeys
    role: Role


@dataclass(frozen=True)
class Values:
    """What one overlay's templates may refer to; each service has a subclass."""


def always(_: Topology) -> bool:
    """Return that every topology has it."""
    return True


@dataclass(frozen=True)
class Service:
    """One service of an image: an overlay folder of the same name, its values, what is enabled."""

    name: str
    """Folder in overlays/."""
    roles: tuple[Role, ...]
    """Images that it is part of."""
    values: Callable[[Site], Values]
    """Makes the values that the overlay's templates refer to."""
    wanted: Callable[[Topology], bool] = always
    """Whether a topology has it; its overlay is left out otherwise."""
    units: tuple[str, ...] = ()
    """systemd units to enable (wanted by multi-user.target, sockets.target, timers.target, paths.target by suffix)."""
