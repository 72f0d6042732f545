"""The tables of a topology that are sound in themselves, so that rules can look at them while others are not. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from imagebuilder.topology.model import (
    Admin,
    Client,
    Filter,
    MailAlias,
    Mailbox,
    MailDomain,
    Model,
    Proxy,
    Relay,
    Tunnel,
)

AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True)
class Rows(Generic[AnyModel]):
    """The sound ones of a list of tables, each with its place."""

    rows: tuple[tuple[str, AnyModel], ...]
    complete: bool
    """Whether the list holds nothing that was left out here."""


@dataclass(frozen=True)
class Parts:
    """What of a topology the rules may rely on; None stands for a table that is missing or wrong."""

    proxy: Proxy | None
    client: Client | None
    tunnel: Tunnel | None
    admin: Admin | None
    filter: Filter | None
    domains: Rows[MailDomain]
    mailboxes: Rows[Mailbox]
    aliases: Rows[MailAlias]
    relays: Rows[Relay]
    doubtful: frozenset[str]
    """Places where something is wrong already; a key there has its default instead of what was written."""

    def doubts(self, *prefixes: str) -> bool:
        """Return whether something at or below one of *prefixes* is wrong already."""
        return any(place == prefix or place.startswith((f"{prefix}.", f"{prefix}["))
                   for place in self.doubtful for prefix in prefixes)  # fmt: skip

    @property
    def hosted(self) -> frozenset[str] | None:
        """Names of the mail domains; None when one of them isn't known."""
        if not self.domains.complete:
            return None
        return frozenset(domain.name for _, domain in self.domains.rows)


def parts_of(document: Mapping[str, Any], doubtful: frozenset[str]) -> Parts:
    """Return the sound parts of *document*, whose wrong places are *doubtful*."""
    mail = document.get("mail")
    mail = mail if isinstance(mail, Mapping) else {}
    return Parts(
        proxy=salvaged(Proxy, document.get("proxy")),
        client=salvaged(Client, document.get("client")),
        tunnel=salvaged(Tunnel, document.get("tunnel", {})),
        admin=salvaged(Admin, document.get("admin")),
        filter=salvaged(Filter, document.get("filter", {})),
        domains=_rows(MailDomain, mail.get("domains", ()), "mail.domains"),
        mailboxes=_rows(Mailbox, mail.get("mailboxes", ()), "mail.mailboxes"),
        aliases=_rows(MailAlias, mail.get("aliases", ()), "mail.aliases"),
        relays=_rows(Relay, mail.get("relays", ()), "mail.relays"),
        doubtful=doubtful,
    )


def salvaged(model: type[AnyModel], table: object) -> AnyModel | None:
    """Return *table* as *model* without the keys that are wrong; None when a required one is."""
    if not isinstance(table, Mapping):
        return None
    remaining = dict(table)
    while True:
        try:
            return model.model_validate(remaining)
        except ValidationError as error:
            wrong = {found["loc"][0] for found in error.errors(include_input=False) if found["loc"]}
        if not wrong & remaining.keys():
            return None
        remaining = {key: value for key, value in remaining.items() if key not in wrong}


def _rows(model: type[AnyModel], tables: object, place: str) -> Rows[AnyModel]:
    """Return the sound ones of *tables*, the list at *place*."""
    if not isinstance(tables, list | tuple) or (not tables and place not in ("mail.aliases", "mail.relays")):
        return Rows((), complete=False)
    found = tuple((f"{place}[{index}]", salvaged(model, table)) for index, table in enumerate(tables))
    rows = tuple((where, row) for where, row in found if row is not None)
    return Rows(rows, complete=len(rows) == len(found))
