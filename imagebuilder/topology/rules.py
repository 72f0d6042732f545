"""What must hold across tables: host names here, mail and networks in the modules beside. Pure."""

from collections.abc import Iterator

from imagebuilder.errors import Problem
from imagebuilder.topology.explain import suggestion
from imagebuilder.topology.model import Suite
from imagebuilder.topology.parts import Parts
from imagebuilder.topology.rules_mail import SERVICE_LABELS, mail_problems
from imagebuilder.topology.rules_network import network_problems

HOME_DOMAINS = ("home.arpa", "internal")
"""For hosts that nobody outside asks for: RFC 8375, and ICANN's reserved name."""
MAX_KERNEL_HOST_NAME = 64
"""HOST_NAME_MAX of Linux."""


def rule_problems(parts: Parts) -> tuple[Problem, ...]:
    """Return every rule across tables that *parts* breaks."""
    return (
        *_client_problems(parts),
        *_host_name_problems(parts),
        *network_problems(parts),
        *mail_problems(parts),
    )


def within(name: str, domain: str) -> bool:
    """Return whether *name* is *domain* or lies below it."""
    return name == domain or name.endswith(f".{domain}")


def _client_problems(parts: Parts) -> Iterator[Problem]:
    """Yield what this version can't build."""
    if parts.client and parts.client.suite is Suite.MAILCOW:
        yield Problem("client.suite", "'mailcow' can't be built yet; use 'native', Debian's own engines")


def _host_name_problems(parts: Parts) -> Iterator[Problem]:
    """Yield what is wrong with the names of the two hosts."""
    own = [*(parts.hosted or ()), *(parts.admin.domains if parts.admin else ())]
    own_known = parts.hosted is not None and parts.admin is not None and not parts.doubts("admin.domains")
    hosts = {
        "proxy.hostname": parts.proxy.hostname if parts.proxy else None,
        "client.hostname": parts.client.hostname if parts.client else None,
    }
    for place, name in hosts.items():
        if not name:
            continue
        accepted = [*own, *HOME_DOMAINS] if place == "client.hostname" else own
        if own_known and not any(within(name, domain) for domain in accepted):
            yield Problem(place, _outside(name, accepted))
        if len(name) > MAX_KERNEL_HOST_NAME:
            yield Problem(place, f"{name!r}: a host can't have a name of more than {MAX_KERNEL_HOST_NAME} characters")
        if name in {f"{label}.{domain}" for label in SERVICE_LABELS for domain in parts.hosted or ()}:
            yield Problem(place, f"{name!r} is the name of a web service on the proxy; take another")
    if hosts["proxy.hostname"] and hosts["proxy.hostname"] == hosts["client.hostname"]:
        yield Problem("client.hostname", f"{hosts['client.hostname']!r} is proxy.hostname too; hosts differ in name")


def _outside(name: str, domains: list[str]) -> str:
    """Return that *name* is in none of *domains*, with the one that was probably meant."""
    labels = name.split(".")
    for start in range(len(labels) - 1):
        if close := suggestion(".".join(labels[start:]), domains, likeness=0.85):
            return f"{name!r} is in none of your domains{close}"
    return f"{name!r} is in none of your domains ({', '.join(domains)}); others of yours go to admin.domains"
