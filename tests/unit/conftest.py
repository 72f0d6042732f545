"""What several unit tests start from."""

import shutil
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[1] / "topologies/reference.toml"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with the operator's files and a store, where nothing of this machine's settings counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    for variable in ("IMAGEBUILDER_SIGNING_KEY", "IMAGEBUILDER_TRUSTED_KEYS", "IMAGEBUILDER_SUBSTITUTERS"):
        monkeypatch.delenv(variable, raising=False)
    for suffix in (".toml", ".lock", ".public.toml"):
        shutil.copy(REFERENCE.with_suffix(suffix), tmp_path / f"topology{suffix}")
    return tmp_path
