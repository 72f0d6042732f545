from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from imagebuilder.cli import main
from imagebuilder.commands.sbom import advisories_in
from imagebuilder.errors import ImagebuilderError

DATA = b"VERSION 1\nCVE-2026-0001,,Made for this test\n\nopenssl,0, HRF,99-1,98-1\n\n\n"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/trixie" else 404)
        self.end_headers()
        if self.path == "/trixie":
            self.wfile.write(DATA)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Give the address of a server that has the data, on the loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_security_data_is_read_from_a_file_or_an_address(server: str, tmp_path: Path) -> None:
    (tmp_path / "trixie").write_bytes(DATA)

    (advisory,) = advisories_in(str(tmp_path / "trixie"))

    assert advisories_in(f"{server}/trixie") == (advisory,)


def test_data_that_cannot_be_had_is_one_sentence(server: str, tmp_path: Path) -> None:
    with pytest.raises(ImagebuilderError, match=r"/bookworm could not be fetched: "):
        advisories_in(f"{server}/bookworm")
    with pytest.raises(ImagebuilderError, match=r"could not be fetched: "):
        advisories_in("http://127.0.0.1:1/x")
    with pytest.raises(ImagebuilderError, match="can't be read: is a directory"):
        advisories_in(str(tmp_path))


def test_before_the_first_build_there_is_nothing_to_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))

    assert main(["sbom", "proxy", "-t", str(tmp_path / "topology.toml")]) == 2
    assert "hint: imagebuilder build" in capsys.readouterr().err


def test_failing_on_an_urgency_needs_data_to_judge_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sbom", "proxy", "--fail-on", "high"]) == 2
    assert "--vulnerabilities" in capsys.readouterr().err
