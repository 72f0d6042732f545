import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.errors import ImagebuilderError
from imagebuilder.statements.intoto import Statement, Subject, subject

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
STATEMENTS = st.builds(
    Statement,
    subject=st.lists(
        st.builds(subject, TEXT, st.binary(min_size=32, max_size=32).map(bytes.hex)), min_size=1, max_size=4
    ).map(tuple),
    predicate_type=TEXT,
    predicate=st.dictionaries(TEXT, JSON, max_size=4),
)


@given(STATEMENTS)
def test_a_statement_survives_the_trip_through_bytes(statement: Statement) -> None:
    content = statement.to_bytes()

    assert Statement.from_bytes(content) == statement
    assert Statement.from_bytes(content).to_bytes() == content


@given(st.dictionaries(TEXT, JSON, min_size=2, max_size=5))
def test_the_order_of_what_is_said_does_not_change_the_bytes(predicate: dict[str, object]) -> None:
    backwards = dict(reversed(predicate.items()))
    one, other = (
        Statement(subject=(subject("a", "0" * 64),), predicate_type="t", predicate=p) for p in (predicate, backwards)
    )

    assert one.to_bytes() == other.to_bytes()


def test_the_keys_are_those_of_in_toto() -> None:
    told = json.loads(Statement(subject=(subject("disk", "0" * 64),), predicate_type="t", predicate={}).to_bytes())

    assert told == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "disk", "digest": {"sha256": "0" * 64}}],
        "predicateType": "t",
        "predicate": {},
    }


def test_digests_are_those_by_sha256() -> None:
    other = Subject(name="b", digest={"sha512": "1" * 128})
    statement = Statement(subject=(subject("a", "0" * 64), other), predicate_type="t", predicate={})

    assert statement.digests() == {"a": "0" * 64}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"_type": "https://in-toto.io/Statement/v0.1"}', b"\xff"])
def test_what_is_no_statement_is_one_sentence(content: bytes) -> None:
    with pytest.raises(ImagebuilderError, match=r"x\.json is no in-toto statement"):
        Statement.from_bytes(content, source="x.json")
