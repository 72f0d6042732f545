"""Statements about artifacts, in the form that in-toto has for them: who or what, by hash, and what is said. Pure.

The format is in-toto Statement v1, https://github.com/in-toto/attestation, spec/v1/statement.md.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from imagebuilder.errors import ImagebuilderError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""What an envelope says that it holds (in-toto spec/v1/envelope.md)."""

STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Subject(BaseModel):
    """An artifact that something is said of."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: Mapping[str, str] = Field(min_length=1)
    """Algorithm to hexadecimal digest."""

    @property
    def sha256(self) -> str | None:
        """Its SHA-256, if that is among the digests."""
        return self.digest.get("sha256")


class Statement(BaseModel):
    """Something said of artifacts."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")
    subject: tuple[Subject, ...] = Field(min_length=1)
    predicate_type: str = Field(alias="predicateType")
    """URI of the kind of what is said."""
    predicate: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Return the statement as JSON whose bytes depend on nothing else: keys sorted, no spaces."""
        told = self.model_dump(mode="json", by_alias=True)
        return json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @staticmethod
    def from_bytes(content: bytes, *, source: str = "the statement") -> "Statement":
        """Return the statement that *content* is; raise ImagebuilderError naming *source* when it is none."""
        try:
            return Statement.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ImagebuilderError(
                f"{source} is no in-toto statement: {place + ': ' if place else ''}{first['msg'].lower()}"
            ) from error

    def digests(self) -> dict[str, str]:
        """Return each subject's SHA-256 by its name."""
        return {subject.name: subject.sha256 for subject in self.subject if subject.sha256}


def subject(name: str, sha256: str) -> Subject:
    """Return the artifact *name* with that digest."""
    return Subject(name=name, digest={"sha256": sha256})
