"""An image as a provider imports it: the same bytes twice, the same disk again, never half of one under its name."""

import asyncio
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from imagebuilder.build.toolchain import build_tools
from imagebuilder.cli import main
from imagebuilder.commands.sources import the_store
from imagebuilder.plan import Plan
from imagebuilder.run import run
from imagebuilder.shipping.formats import Format, Shaped, shaped
from imagebuilder.shipping.objects import ObjectError, put
from imagebuilder.shipping.provision import Provisioned
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from tests.unit.images import SECRETS, SIZE, small_image
from tests.unit.shipping import attest, generation

pytestmark = pytest.mark.accept

QEMU_NAMES = {Format.RAW: "raw", Format.QCOW2: "qcow2", Format.VMDK: "vmdk", Format.VHD: "vpc"}


@pytest.fixture
def tools(plan: Plan) -> Tools:
    """Return the tools alone, which need no image."""
    return build_tools(the_store(), plan)


@pytest.fixture
def provisioned(tmp_path: Path) -> Provisioned:
    return Provisioned(small_image(tmp_path, Role.PROXY), b"SECRET" * 100)


def whole(provisioned: Provisioned) -> bytes:
    content = bytearray(provisioned.size_bytes)
    for region in provisioned.regions():
        content[region.offset : region.end] = region.data
    return bytes(content)


@pytest.mark.parametrize("form", Format)
def test_each_form_is_the_same_bytes_twice_and_the_same_disk_again(
    form: Format, provisioned: Provisioned, tools: Tools, tmp_path: Path
) -> None:
    urls = [tmp_path / f"{number}.{form}" for number in (1, 2)]
    for url in urls:
        with shaped(provisioned, form, tools) as made:
            stored = put(made, url.as_uri())
        assert stored.read_back
        assert (stored.size_bytes, stored.sha256) == (url.stat().st_size, hashlib.sha256(url.read_bytes()).hexdigest())
        assert url.stat().st_mode & 0o777 == 0o600
    assert urls[0].read_bytes() == urls[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(url.name for url in urls), "proxy.raw"])

    back = tmp_path / "back"
    if form is Format.RAW_ZST:
        run(tools.argv(["zstd", "-q", "-d", str(urls[0]), "-o", str(back)], write=[tmp_path]))
    else:
        argv = ["qemu-img", "convert", "-f", QEMU_NAMES[form], "-O", "raw", str(urls[0]), str(back)]
        run(tools.argv(argv, write=[tmp_path]))
    assert back.read_bytes() == whole(provisioned)
    if form is Format.VHD:
        footer = urls[0].read_bytes()[SIZE:]
        # Cookie, and the seconds since 2000.
        assert (len(footer), footer[:8], footer[24:28]) == (512, b"conectix", bytes(4))
        assert int.from_bytes(footer[64:68], "big") == ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF
    if form is not Format.RAW and form is not Format.VHD:
        assert urls[0].stat().st_size < 0.6 * SIZE


def test_other_secrets_are_another_object_with_another_identity(provisioned: Provisioned, tools: Tools) -> None:
    other = Provisioned(provisioned.image, b"OTHER" * 100)

    with shaped(provisioned, Format.VMDK, tools) as one, shaped(other, Format.VMDK, tools) as two:
        assert one.sha256 != two.sha256


# --- places that fail


class BrokenError(Exception):
    pass


def test_what_breaks_off_leaves_nothing_under_any_name(provisioned: Provisioned, tools: Tools, tmp_path: Path) -> None:
    folder = tmp_path / "bucket"
    folder.mkdir()
    (folder / "proxy.raw").write_bytes(b"the last one")
    with shaped(provisioned, Format.RAW, tools) as made:

        def pieces() -> Iterator[bytes]:
            yield next(made.pieces())
            raise BrokenError

        with pytest.raises(BrokenError):
            put(Shaped(made.form, made.size_bytes, made.sha256, pieces), (folder / "proxy.raw").as_uri())

    assert [path.name for path in folder.iterdir()] == ["proxy.raw"]
    assert (folder / "proxy.raw").read_bytes() == b"the last one"


@pytest.mark.parametrize("url", ["file:///proc/nothing/proxy.raw", "http://127.0.0.1:1/proxy.raw"])
def test_a_place_that_takes_nothing_is_one_sentence(provisioned: Provisioned, tools: Tools, url: str) -> None:
    with shaped(provisioned, Format.RAW, tools) as made, pytest.raises(ObjectError, match="was not written") as caught:
        put(made, url)

    assert "\n" not in str(caught.value)


class Server:
    """A web server that keeps what is put, whole or not at all, as they do."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.lengths: list[str | None] = []
        self.may_read = True
        self.flips = False

    async def put(self, request: web.Request) -> web.Response:
        self.lengths.append(request.headers.get("Content-Length"))
        self.kept[request.path] = await request.read()
        return web.Response(status=201)

    async def get(self, request: web.Request) -> web.Response:
        if not self.may_read:
            return web.Response(status=403)
        content = self.kept[request.path]
        return web.Response(body=content[:-1] + b"?" if self.flips else content)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[str]:
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        application = web.Application(client_max_size=2**30)
        application.router.add_put("/{name:.*}", server.put)
        application.router.add_get("/{name:.*}", server.get)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(runner.addresses[0][1])
        ready.set()
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(20)
    try:
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


def test_a_web_server_is_told_the_length_and_read_back(
    provisioned: Provisioned, tools: Tools, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    with serving(server) as url, shaped(provisioned, Format.RAW_ZST, tools) as made:
        stored = put(made, f"{url}/images/proxy.raw.zst?signature=s3cret")

        assert stored.read_back
        assert "s3cret" not in stored.url + capsys.readouterr().err
        assert hashlib.sha256(server.kept["/images/proxy.raw.zst"]).hexdigest() == made.sha256
        assert server.lengths == [str(made.size_bytes)]

        server.may_read = False
        assert not put(made, f"{url}/again").read_back
        assert "not compared" in capsys.readouterr().err

        server.may_read, server.flips = True, True
        with pytest.raises(ObjectError, match="gives back other bytes"):
            put(made, f"{url}/third")


# --- the command


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An operator's topology with two small images that passed."""
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    attest(Store(tmp_path / "store"), generation(tmp_path))
    # What makes the file system is a program of the tools, which this store has none of.
    monkeypatch.setattr("imagebuilder.commands.cargo.secrets_filesystem", lambda *_, **__: b"SECRETS")
    return tmp_path / "topology.toml"


def test_the_command_takes_the_form_from_the_name_warns_and_notes_where_it_went(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = (site.parent / "out.raw").as_uri()

    assert main(["upload", "proxy", url, "--json", "-t", str(site)]) == 0

    out, err = capsys.readouterr()
    assert json.loads(out)["format"] == "raw"
    assert "holds the private keys of the proxy" in err
    assert (site.parent / "out.raw").read_bytes()[SECRETS : SECRETS + 8] == b"SECRETS\0"
    assert main(["generations", "-t", str(site)]) == 0
    assert f"proxy shipped to {url} (raw)" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["file:///tmp/proxy", "nothing://bucket/proxy.raw"])
def test_a_url_that_says_no_form_or_no_kind_is_wrong_input(
    site: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", "proxy", url, "-t", str(site)]) == 2
    assert "hint: " in capsys.readouterr().err
