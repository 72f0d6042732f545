"""What tests of built images need to know."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--topology", type=Path, help="topology whose images the accept and vm tests read or boot")
