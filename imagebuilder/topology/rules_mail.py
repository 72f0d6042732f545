"""Rules about mail domains, mailboxes and aliases: who exists, once, and where mail for them ends. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from imagebuilder.errors import Problem
from imagebuilder.topology.explain import suggestion
from imagebuilder.topology.model import Mailbox
from imagebuilder.topology.parts import Parts

# What a mailbox's folder, a table of Postfix and a user of Dovecot can be named without quoting. The + separates
# the detail of an address (RFC 5233), so that only an alias can have one of its own.
MAILBOX_LOCAL_PART = re.compile(r"[a-z0-9_]([a-z0-9._-]*)")
ALIAS_LOCAL_PART = re.compile(r"[a-z0-9_]([a-z0-9._+'=&-]*)")
STANDING = ("postmaster", "abuse")
"""Addresses that every mail domain has (RFC 5321 section 4.5.1, RFC 2142); admin.email gets their mail."""
SERVICE_LABELS = ("autoconfig", "autodiscover", "mta-sts")
"""Names below every mail domain that lead to the proxy's web server."""
MAX_DKIM_NAME = 253
HARMLESS = (".quota_mib", ".sieve", ".max_message_mib", ".dkim_selector", ".dkim_next_selector")
"""Ends of places where something wrong doesn't change which addresses there are."""


@dataclass(frozen=True)
class Directory:
    """Which addresses the topology gives away."""

    places: Mapping[str, str]
    """Every address that was written, and where first."""
    mailboxes: Mapping[str, Mailbox]
    """The mailbox of each address that a mailbox has, its aliases included."""
    targets: Mapping[str, tuple[str, ...]]
    """Where mail to each alias goes, with the standing addresses of every domain."""
    catch_all: Mapping[str, str]
    """The mailbox that takes the rest of a domain."""
    complete: bool
    """Whether an address that is not here doesn't exist."""

    def base(self, address: str) -> str:
        """Return the address that takes mail to *address*: itself, without its detail, or the domain's catch-all."""
        local_part, _, domain = address.partition("@")
        plain = f"{local_part.partition('+')[0]}@{domain}"
        for candidate in (address, plain):
            if candidate in self.mailboxes or candidate in self.targets:
                return candidate
        return self.catch_all.get(domain, address)

    def exists(self, address: str) -> bool:
        """Return whether mail to *address*, in a hosted domain, has somewhere to go."""
        base = self.base(address)
        return base in self.mailboxes or base in self.targets


def mail_problems(parts: Parts) -> Iterator[Problem]:
    """Yield what is wrong with domains, mailboxes and aliases, by themselves and between tables."""
    directory = directory_of(parts)
    yield from _domains(parts)
    yield from _duplicates(parts)
    yield from _own_addresses(parts)
    yield from _catch_alls(parts)
    yield from _targets(parts, directory)
    yield from _admin(parts, directory)
    yield from _loops(parts, directory)
    yield from _filter(parts)
    yield from _relays(parts)


def written_addresses(parts: Parts) -> Iterator[tuple[str, str]]:
    """Yield each address that a mailbox or alias claims, with its place, in the order of the model."""
    for place, mailbox in parts.mailboxes.rows:
        yield f"{place}.address", mailbox.address
        for index, address in enumerate(mailbox.aliases):
            yield f"{place}.aliases[{index}]", address
    for place, alias in parts.aliases.rows:
        yield f"{place}.address", alias.address


def directory_of(parts: Parts) -> Directory:
    """Return who is who in *parts*."""
    places: dict[str, str] = {}
    for place, address in written_addresses(parts):
        places.setdefault(address, place)
    mailboxes = {
        address: mailbox for _, mailbox in parts.mailboxes.rows for address in (mailbox.address, *mailbox.aliases)
    }
    targets = {alias.address: alias.targets for _, alias in parts.aliases.rows if alias.address not in mailboxes}
    if parts.admin:
        for domain in sorted(parts.hosted or ()):
            for name in STANDING:
                if f"{name}@{domain}" not in places:
                    targets[f"{name}@{domain}"] = (parts.admin.email,)
    return Directory(
        places=places,
        mailboxes=mailboxes,
        targets=targets,
        catch_all={domain.name: domain.catch_all for _, domain in parts.domains.rows if domain.catch_all},
        complete=parts.admin is not None
        and not any(place.startswith("mail") and not place.endswith(HARMLESS) for place in parts.doubtful),
    )


def no_such_domain(address: str, hosted: frozenset[str]) -> str:
    """Return that the domain of *address* isn't hosted, with the one that was probably meant."""
    domain = address.partition("@")[2]
    close = suggestion(domain, sorted(hosted), likeness=0.8)
    return f"{address!r}: no such mail domain{close or '; there are ' + ', '.join(sorted(hosted))}"


def _filter(parts: Parts) -> Iterator[Problem]:
    """Yield scores that leave no room for Junk."""
    wanted = parts.filter
    if wanted and wanted.junk_score >= wanted.reject_score and not parts.doubts("filter"):
        yield Problem(
            "filter.junk_score", f"{wanted.junk_score} is not below filter.reject_score, {wanted.reject_score}"
        )


def _relays(parts: Parts) -> Iterator[Problem]:
    """Yield relays that would take the same mail."""
    first: dict[str, str] = {}
    for place, relay in parts.relays.rows:
        for name in relay.domains or ("*",):
            if name in first:
                what = f"mail to {name!r}" if relay.domains else "all other mail"
                yield Problem(f"{place}.domains", f"{what} goes to the relay at {first[name]} already")
            first.setdefault(name, place)


def _domains(parts: Parts) -> Iterator[Problem]:
    """Yield domains that are there twice, or in each other's way."""
    first: dict[str, str] = {}
    for place, domain in parts.domains.rows:
        if domain.name in first:
            yield Problem(f"{place}.name", f"{domain.name!r} stands already in {first[domain.name]}.name")
        first.setdefault(domain.name, place)
        if max(len(f"{selector}._domainkey.{domain.name}") for selector in domain.selectors) > MAX_DKIM_NAME:
            yield Problem(f"{place}.name", f"{domain.name!r} is too long for the name of its DKIM record")
        if domain.dkim_next_selector == domain.dkim_selector:
            yield Problem(f"{place}.dkim_next_selector", f"{domain.dkim_selector!r} is the selector that signs already")
    for place, domain in parts.domains.rows:
        label, _, above = domain.name.partition(".")
        if above in first and label in SERVICE_LABELS:
            yield Problem(f"{place}.name", f"{domain.name!r} is the name of a web service of {above!r} on the proxy")


def _duplicates(parts: Parts) -> Iterator[Problem]:
    """Yield each address that stands in a second place."""
    first: dict[str, str] = {}
    for place, address in written_addresses(parts):
        if address in first:
            yield Problem(place, f"{address!r} stands already in {first[address]}")
        first.setdefault(address, place)
    for place, alias in parts.aliases.rows:
        for index, target in enumerate(alias.targets):
            if target in alias.targets[:index]:
                yield Problem(f"{place}.targets[{index}]", f"{target!r} is a target already")


def _own_addresses(parts: Parts) -> Iterator[Problem]:
    """Yield addresses that aren't in a hosted domain, or that daemons can't be given."""
    logins = {f"{place}.address" for place, _ in parts.mailboxes.rows}
    for place, address in written_addresses(parts):
        local_part, _, domain = address.partition("@")
        if parts.hosted is not None and domain not in parts.hosted:
            yield Problem(place, no_such_domain(address, parts.hosted))
        if place in logins and not MAILBOX_LOCAL_PART.fullmatch(local_part):
            yield Problem(place, f"{address!r}: a mailbox is named by letters, digits, dots, hyphens and underscores")
        elif not ALIAS_LOCAL_PART.fullmatch(local_part):
            yield Problem(place, f"{address!r}: {local_part!r} has a character that no alias of ours can have")


def _catch_alls(parts: Parts) -> Iterator[Problem]:
    """Yield catch-alls that are no mailbox, or one that takes no mail."""
    mailboxes = {mailbox.address: mailbox for _, mailbox in parts.mailboxes.rows}
    for place, domain in parts.domains.rows:
        if not domain.catch_all:
            continue
        mailbox = mailboxes.get(domain.catch_all)
        if mailbox and mailbox.send_only:
            yield Problem(f"{place}.catch_all", f"{domain.catch_all!r} is send-only; mail to it is refused")
        elif not mailbox and parts.mailboxes.complete:
            close = suggestion(domain.catch_all, sorted(mailboxes), likeness=0.8)
            yield Problem(f"{place}.catch_all", f"{domain.catch_all!r} is the address of no mailbox{close}")


def _targets(parts: Parts, directory: Directory) -> Iterator[Problem]:
    """Yield targets of aliases in hosted domains that don't exist, or take no mail."""
    for place, alias in parts.aliases.rows:
        for index, target in enumerate(alias.targets):
            if fault := _fault(target, parts, directory):
                yield Problem(f"{place}.targets[{index}]", fault)


def _admin(parts: Parts, directory: Directory) -> Iterator[Problem]:
    """Yield why the administrator would get no mail."""
    if parts.admin and (fault := _fault(parts.admin.email, parts, directory)):
        yield Problem("admin.email", fault)


def _fault(address: str, parts: Parts, directory: Directory) -> str | None:
    """Return why mail to *address* can't be delivered, or None; nobody knows about foreign domains."""
    hosted = parts.hosted
    domain = address.partition("@")[2]
    if hosted is None or domain not in hosted:
        return None
    mailbox = directory.mailboxes.get(directory.base(address))
    if mailbox and mailbox.send_only:
        return f"{address!r} is send-only; mail to it is refused"
    if directory.complete and not directory.exists(address):
        close = suggestion(address, sorted({*directory.mailboxes, *directory.targets}), likeness=0.8)
        return f"{address!r}: there is neither mailbox nor alias of that name{close}"
    return None


def _loops(parts: Parts, directory: Directory) -> Iterator[Problem]:
    """Yield each loop of aliases once, at its first alias in the file."""
    places = {alias.address: place for place, alias in reversed(parts.aliases.rows)}
    ways = _endless(directory)
    seen: set[str] = set()
    for start in ways:
        loop = () if start in seen else _loop_from(start, ways)
        if loop:
            seen.update(loop)
            place = f"{places[start]}.targets" if start in places else "admin.email"
            yield Problem(place, f"mail would go round for ever: {' → '.join((*loop, start))}")


def _endless(directory: Directory) -> dict[str, set[str]]:
    """Return the aliases from which mail may never come to an end, each with those among its targets."""
    ways = {
        alias: {base for target in targets if (base := directory.base(target)) in directory.targets}
        for alias, targets in directory.targets.items()
    }
    sources: dict[str, list[str]] = {}
    for alias, following in ways.items():
        for target in following:
            sources.setdefault(target, []).append(alias)
    ends = [alias for alias, following in ways.items() if not following]
    while ends:
        end = ends.pop()
        del ways[end]
        for source in sources.get(end, ()):
            ways[source].discard(end)
            if not ways[source]:
                ends.append(source)
    return ways


def _loop_from(start: str, ways: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return the shortest way by *ways* from *start* back to it, without its end; empty when there is none."""
    before: dict[str, str] = {}
    reached = [start]
    for alias in reached:  # grows while it is read: breadth first
        for following in sorted(ways[alias]):
            if following == start:
                loop = [alias]
                while loop[-1] != start:
                    loop.append(before[loop[-1]])
                return tuple(reversed(loop))
            if following not in before:
                before[following] = alias
                reached.append(following)
    return ()
