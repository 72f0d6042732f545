"""Secrets by name: replace one, take one away, put one in. Touches chance alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.secrets.keys import Secrets, dkim_key, hashed, ssh_key, tls_key, wireguard_key
from imagebuilder.secrets.vault import named, unnamed
from imagebuilder.topology import Role, Topology

LIST_HINT = "imagebuilder secrets list shows the names there are"


class SecretNameError(ImagebuilderError):
    """What was named is no secret, or not one that this can be done with."""

    status = ExitStatus.WRONG_INPUT


def rotated(private: Secrets, topology: Topology, name: str) -> Secrets:
    """Return *private* with what *name* means made anew; a mailbox loses its password and is completed afterwards.

    ``wireguard`` and ``ssh`` mean those of both hosts. A DKIM key gets a new selector, so that both can be
    published until the last letter signed with the old one has been checked.
    """
    table, _, rest = name.partition("/")
    match table:
        case "wireguard":
            return replace(private, wireguard={**private.wireguard, **{r: wireguard_key() for r in _roles(name, rest)}})
        case "ssh":
            return replace(private, ssh={**private.ssh, **{role: ssh_key() for role in _roles(name, rest)}})
        case "tls" if not rest:
            return replace(private, tls=tls_key())
        case "dkim":
            return _with_dkim_key(private, topology, rest)
        case "mailboxes" if rest in private.mailboxes:
            return replace(private, mailboxes=_without(private.mailboxes, rest))
        case "tokens" if rest in private.tokens:
            hint = f"imagebuilder secrets import {name}, and the token on standard input"
            raise SecretNameError(f"{name} is made by a provider, not here", hint=hint)
    raise SecretNameError(f"there is no secret {name!r}", hint=LIST_HINT)


def removed(private: Secrets, topology: Topology, name: str) -> Secrets:
    """Return *private* without what *name* means; raise SecretNameError when *topology* needs it."""
    values = named(private)
    if name not in values:
        raise SecretNameError(f"there is no secret {name!r}", hint=LIST_HINT)
    if name in needed(topology):
        raise SecretNameError(f"the topology needs {name}", hint=f"imagebuilder secrets rotate {name} makes it anew")
    return unnamed(Path(name), _without(values, name))


def imported(private: Secrets, name: str, value: str) -> Secrets:
    """Return *private* with *value* for *name*; a mailbox's may be its password in plain, of which the hash is kept."""
    text = value.strip("\r\n")
    if name.startswith("mailboxes/") and not text.startswith("{"):
        text = hashed(text)
    elif "PRIVATE KEY" in text:
        text += "\n"
    return unnamed(Path(f"the value for {name}"), {**named(private), name: text})


def needed(topology: Topology) -> tuple[str, ...]:
    """Return the names of the secrets that *topology* can't do without. Pure."""
    names = [f"{table}/{role}" for table in ("wireguard", "ssh") for role in Role]
    names += [f"dkim/{domain.name}/{selector}" for domain in topology.mail.domains for selector in domain.selectors]
    return ("tls", *names, *(f"mailboxes/{mailbox.address}" for mailbox in topology.mail.mailboxes))


def _with_dkim_key(private: Secrets, topology: Topology, rest: str) -> Secrets:
    """Return *private* with a new key for the domain *rest*, or for the selector after it: ``example.org/next``."""
    name, _, selector = rest.partition("/")
    domains = {domain.name: domain for domain in topology.mail.domains}
    if name not in domains:
        raise SecretNameError(f"there is no mail domain {name!r}", hint="it is: secrets rotate dkim/DOMAIN")
    used = domains[name].dkim_selector
    if selector == used:
        raise SecretNameError(
            f"letters signed with the selector {selector!r} are under way, and could not be checked any more",
            hint=f"imagebuilder secrets rotate dkim/{name} makes a key under another selector",
        )
    base = used.rstrip("0123456789")
    taken = {known for domain, known in private.dkim if domain == name} | {used}
    fresh = next(f"{base}{number}" for number in range(2, len(taken) + 3) if f"{base}{number}" not in taken)
    value = {**named(private), f"dkim/{name}/{selector or fresh}": dkim_key()}
    return unnamed(Path(f"dkim/{rest}"), value)


def _roles(name: str, rest: str) -> tuple[Role, ...]:
    """Return the roles that *rest* of *name* means: one, or both."""
    if not rest:
        return tuple(Role)
    if rest not in tuple(Role):
        raise SecretNameError(f"there is no secret {name!r}", hint=LIST_HINT)
    return (Role(rest),)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
