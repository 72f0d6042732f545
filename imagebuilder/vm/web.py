"""A web site of somebody in the world, by HTTPS. Owns one thread."""

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from imagebuilder.vm.host import Host
from imagebuilder.vm.world import FOLDER

HTTPS = 443


@contextmanager
def web_site(host: Host, certificate: bytes, pages: Mapping[str, str]) -> Iterator[None]:
    """Serve *pages*, texts by their paths, on *host*, which shows *certificate*, a key and a chain as PEM."""
    file = _private_file(FOLDER / f"web-{host.name}.pem", certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    with host.entered():
        server = ThreadingHTTPServer((str(host.ipv4), HTTPS), _handler(pages))
    server.daemon_threads = True
    # a handshake that hangs must not keep the next visitor waiting
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _private_file(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def _handler(pages: Mapping[str, str]) -> type[BaseHTTPRequestHandler]:
    class Site(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            text = pages.get(self.path)
            self.send_response(404 if text is None else 200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: Any) -> None:  # noqa: ANN401
            """Say nothing."""

    return Site
