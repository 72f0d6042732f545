"""The schema says everything that the model knows."""

import json
import re

from imagebuilder.init import template
from imagebuilder.topology.explain import inner_model, tables
from imagebuilder.topology.model import Topology
from imagebuilder.topology.schema import WIDTH, schema, schema_json, schema_text


def test_every_key_of_every_table_has_a_type_and_a_meaning() -> None:
    described = {(table.header, key.name) for table in schema() for key in table.keys}

    assert described == {
        (header, name)
        for header, model in tables(Topology)
        for name, field in model.model_fields.items()
        if inner_model(field.annotation) is None
    }
    assert all(key.type and key.meaning.endswith(".") for table in schema() for key in table.keys)
    assert all(table.meaning.endswith(".") for table in schema())


def test_defaults_and_bounds_and_choices_are_shown_as_they_are_written() -> None:
    text = schema_text()

    assert "  mtu: whole number from 1280 to 1440; default 1420\n" in text
    assert '  suite: "native" or "mailcow"; default "native"\n' in text
    assert "  hostname: host name; required\n" in text
    assert "  ipv6: IPv6 address/prefix; optional\n" in text
    assert "  targets: list of mail addresses; required\n" in text
    assert '  network: IPv4 network; default "10.0.0.0/24"\n' in text
    assert "[[mail.domains]]\n" in text


def test_the_text_fits_a_terminal_and_no_word_is_broken() -> None:
    assert max(map(len, schema_text().splitlines())) <= WIDTH + 10
    assert "link-\n" not in schema_text()


def test_as_json_it_is_the_same() -> None:
    rows = json.loads(schema_json())

    assert [row["header"] for row in rows] == [table.header for table in schema()]
    assert rows[0]["keys"][0] == {
        "name": "hostname", "type": "host name", "required": True, "default": None,
        "meaning": schema()[0].keys[0].meaning,
    }  # fmt: skip


def test_the_template_shows_every_key_under_its_table_with_its_default() -> None:
    for table in schema():
        block = re.search(rf"^(# )?{re.escape(table.header)}\n(.*?)(?=^(# )?\[|\Z)", template(), re.M | re.S)
        assert block, table.header
        for key in table.keys:
            line = re.search(rf"^(# )?{key.name} = (.*)$", block[2], re.M)
            assert line, f"{table.header} {key.name}"
            if key.default not in (None, "[]"):
                assert line[2] == key.default
