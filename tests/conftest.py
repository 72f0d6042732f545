"""What tests of built images need to know."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine, on which images may be building, than of the code.
settings.register_profile("imagebuilder", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("imagebuilder")

# A shell's background job is started with interruptions ignored, and so would be what the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--topology", type=Path, help="topology whose images the accept and vm tests read or boot")
