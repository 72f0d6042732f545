"""What the profiles ask for: the packages that each closure must have. Reads the package's own profiles."""

from collections.abc import Iterator

from imagebuilder.errors import ImagebuilderError
from imagebuilder.lock.model import Closure, Lock
from imagebuilder.resources import PROFILES


def profile_packages(profile: str) -> tuple[str, ...]:
    """Return the names in the Packages= lists of the mkosi profile *profile*, in the order of its files."""
    names: list[str] = []
    for path in sorted((PROFILES / profile).rglob("*.conf")):
        names += packages_in(path.read_text())
    return tuple(names)


def packages_in(text: str) -> Iterator[str]:
    """Yield the values of every Packages= in the text of a mkosi settings file. Pure."""
    inside = False
    for line in text.splitlines():
        bare = line.partition("#")[0].rstrip()
        if bare and not bare[0].isspace():
            key, _, value = bare.partition("=")
            inside = key.strip() == "Packages"
            bare = value
        if inside:
            yield from bare.split()


def wanted_packages() -> dict[Closure, tuple[str, ...]]:
    """Return what the profiles ask for, per closure; both roles stand on the base profile."""
    base = profile_packages("base")
    return {
        Closure.TOOLS: profile_packages("tools"),
        Closure.INITRD: profile_packages("initrd"),
        Closure.PROXY: base + profile_packages("proxy"),
        Closure.CLIENT: base + profile_packages("client"),
        Closure.INSTALLER: profile_packages("installer"),
    }


def check_complete(lock: Lock) -> None:
    """Raise ImagebuilderError when *lock* lacks a package that a profile asks for: it was made for other profiles."""
    lacking = []
    for closure, names in wanted_packages().items():
        locked = {package.name for package in lock.closure(closure)}
        lacking += [f"{name} ({closure})" for name in names if name not in locked]
    if lacking:
        raise ImagebuilderError(f"the lock lacks {', '.join(lacking)}", hint="imagebuilder lock")
