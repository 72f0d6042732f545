"""A message's way and what receivers made of it, read from its header fields. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

from authres import AuthenticationResultsHeader, AuthResError  # type: ignore[import-untyped]

from imagebuilder.runs.record import Authentication, Hop

ADDRESS = re.compile(r"\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]")
CLAUSES = re.compile(r"^(?:from\s+(?P<from>.*?)\s+)?by\s+(?P<by>\S+)(?P<rest>.*)$", re.IGNORECASE)
TLS = (
    # Postfix: (using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) …)
    re.compile(r"using (?P<version>TLSv[0-9.]+) with cipher (?P<cipher>[\w-]+)"),
    # Haraka, by RFC 8314 section 4.3: tls TLS_AES_256_GCM_SHA384
    re.compile(r"\b(?P<version>tls) (?P<cipher>[A-Z][\w-]+)"),
)


def hop(field: str) -> Hop:
    """Return what a Received *field* tells (RFC 5321 section 4.4); what it does not is empty."""
    text = " ".join(field.split())
    path, _, date = text.rpartition(";")
    path, date = (path, date) if path else (text, "")
    clauses = CLAUSES.match(path.strip())
    if clauses is None:
        return Hop(by="", at=_moment(date), text=text)
    origin, rest = clauses["from"] or "", clauses["rest"]
    address = ADDRESS.search(origin)
    software = re.match(r"\s+\(([^()]*)\)", rest)
    protocol = re.search(r"\bwith\s+((?:UTF8)?[EL]?SMTP\w*|LMTP\w*|HTTP\w*|local)", rest, re.IGNORECASE)
    return Hop(
        by=clauses["by"],
        software=software[1] if software else "",
        from_name=origin.partition(" ")[0].strip("[]()"),
        from_address=address[1] if address else "",
        protocol=protocol[1].upper() if protocol else "",
        tls=_tls(path),
        at=_moment(date),
        text=text,
    )


def hops(message: EmailMessage, further: Sequence[str] = ()) -> tuple[Hop, ...]:
    """Return the stations of *message*, the first first; *further* are fields that it does not carry itself."""
    return tuple(hop(str(field)) for field in (*reversed(message.get_all("Received", [])), *further))


def authentication(message: EmailMessage) -> tuple[Authentication, ...]:
    """Return what its Authentication-Results fields say (RFC 8601), the first judge first."""
    found = []
    for field in reversed(message.get_all("Authentication-Results", [])):
        try:
            header = AuthenticationResultsHeader.parse(f"Authentication-Results: {' '.join(str(field).split())}")
        except AuthResError:
            continue  # whoever wrote it did not follow the grammar
        for result in header.results:
            told = (f"{each.type}.{each.name}={each.value}" for each in result.properties)
            found.append(
                Authentication(
                    method=result.method,
                    result=result.result or "none",
                    detail=" ".join(told),
                    by=header.authserv_id or "",
                )
            )
    return tuple(found)


def _tls(path: str) -> str:
    for form in TLS:
        if found := form.search(path):
            return f"{found['version']} {found['cipher']}".removeprefix("tls ")
    return ""


def _moment(date: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(re.sub(r"\([^)]*\)", "", date).strip())
    except (ValueError, TypeError):
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
