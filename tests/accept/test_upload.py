"""A disk of a rescue system is written over ssh: what is on it afterwards, and what is said of every way to fail."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuilder.build.image import Image
from imagebuilder.cli import main
from imagebuilder.errors import ImagebuilderError
from imagebuilder.generations import Generation
from imagebuilder.init import init
from imagebuilder.shipping.arrival import host_checks
from imagebuilder.shipping.cells import Cell, Place
from imagebuilder.shipping.disks import named, refusal
from imagebuilder.shipping.far_disk import FarDisk, far_disks
from imagebuilder.shipping.provision import MARGIN_BYTES, Provisioned
from imagebuilder.shipping.remote import Address, RemoteError, connected
from imagebuilder.shipping.transfer import Tally, upload
from imagebuilder.store.folder import Store
from imagebuilder.tools import Tools
from imagebuilder.topology import Role, load_public_keys
from tests.accept.rescue_room import Rescue, Road, free_port, loop, rescue
from tests.accept.test_canaries import watched
from tests.unit.images import MIB, SECRETS, SIZE, small_image
from tests.unit.keys import ssh_pair
from tests.unit.shipping import attest, generation

pytestmark = [
    pytest.mark.accept,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="loop devices need root"),
]
LARGE = SIZE + 9 * MIB + 512
SECRET = b"SECRET" * 100


@pytest.fixture(scope="module")
def host(
    tools: Tools, package_tree: Callable[[Role], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rescue]:
    """A rescue system with zstd."""
    with rescue(tmp_path_factory.mktemp("room") / "rescue", package_tree(Role.PROXY), tools.tree) as running:
        yield running


@pytest.fixture(autouse=True)
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the small image into more than two."""
    monkeypatch.setattr("imagebuilder.shipping.cells.CELL_BYTES", 4 * MIB)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return small_image(tmp_path, Role.PROXY)


@pytest.fixture
def provisioned(image: Image) -> Provisioned:
    return Provisioned(image, SECRET, LARGE)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that is full of old data."""
    (tmp_path / "disk").write_bytes((b"old data" * (LARGE // 8 + 1))[:LARGE])
    with loop(tmp_path / "disk") as device:
        yield device


def brought(provisioned: Provisioned, address: Address, disk: Path, who: str = "me") -> Tally:
    return upload(provisioned, lambda: connected(address), disk, who=who)


def assert_whole(provisioned: Provisioned, disk: Path) -> None:
    whole = bytearray(provisioned.size_bytes)
    for region in provisioned.regions():
        whole[region.offset : region.end] = region.data
    content = disk.read_bytes()
    assert content[:SIZE] == whole[:SIZE]
    assert content[-MARGIN_BYTES:] == whole[-MARGIN_BYTES:]


def test_a_used_disk_becomes_the_image_with_the_secrets(host: Rescue, provisioned: Provisioned, disk: Path) -> None:
    with watched({"secret": SECRET[:12]}) as seen:
        done = brought(provisioned, host.address, disk)

    assert_whole(provisioned, disk)
    assert seen == set()  # in no argument and no environment, here or there
    assert (done.connections, done.kept_bytes) == (1, 0)
    assert done.sent_bytes < provisioned.data_bytes()
    listed = subprocess.run(["partx", "-g", "-o", "NAME", "-s", disk], check=True, capture_output=True, text=True)
    assert "secrets" in listed.stdout.split()


def test_the_second_time_nothing_is_sent(host: Rescue, provisioned: Provisioned, disk: Path) -> None:
    brought(provisioned, host.address, disk)

    again = brought(provisioned, host.address, disk)

    assert (again.written_bytes, again.sent_bytes) == (0, 0)
    assert again.kept_bytes >= 3 * (5 * MIB // 4)
    assert_whole(provisioned, disk)


def assert_starts_nothing(disk: Path) -> None:
    head = disk.read_bytes()[:MARGIN_BYTES]
    assert re.sub(rb"imagebuilder upload [0-9a-f]{64}", b"", head).strip(b"\0") == b""


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_connection_that_is_cut_goes_on_where_it_was(
    host: Rescue, provisioned: Provisioned, disk: Path, share: float
) -> None:
    with Road(host.port) as whole:
        brought(provisioned, host.over(whole), disk)
        total = whole.carried
    disk.write_bytes(bytes(LARGE))

    with Road(host.port, cuts=[int(total * share)]) as road:
        done = brought(provisioned, host.over(road), disk)

        assert road.connections == done.connections == 2
        assert road.carried <= total * (1 + share) + MIB
    assert_whole(provisioned, disk)


def test_what_is_cut_for_good_starts_nothing_and_the_next_run_goes_on(
    host: Rescue, provisioned: Provisioned, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagebuilder.shipping.transfer.TRIES", 0)
    write = FarDisk.write

    def cut(self: FarDisk, places: Iterable[Place], cells: Iterable[Cell]) -> Iterator[int]:
        for number, offset in enumerate(write(self, places, cells)):
            yield offset
            if number == 1:
                road.cut()

    with Road(host.port) as road, monkeypatch.context() as patched:
        patched.setattr(FarDisk, "write", cut)
        with pytest.raises(RemoteError, match=r"was lost.*given up") as caught:
            brought(provisioned, host.over(road), disk)
    assert caught.value.hint == "the same command again goes on where this one stopped"
    assert_starts_nothing(disk)

    done = brought(provisioned, host.address, disk)

    assert done.kept_bytes >= 2 * 3 * MIB
    assert_whole(provisioned, disk)


def test_a_connection_that_is_cut_unseen_over_there_is_ended_there(
    host: Rescue, provisioned: Provisioned, disk: Path
) -> None:
    with Road(host.port, cuts=[2 * MIB], silent=True) as road:
        done = brought(provisioned, host.over(road), disk)

    assert done.connections == 2
    assert_whole(provisioned, disk)


def test_two_uploads_at_once_do_not_mix(host: Rescue, provisioned: Provisioned, disk: Path) -> None:
    before = disk.read_bytes()
    with connected(host.address) as shell:
        FarDisk(shell, disk, "root@elsewhere").lock()
        with pytest.raises(RemoteError, match=f"{disk} of 127.0.0.1 is being written by another upload, that of root@"):
            brought(provisioned, host.address, disk)
        assert disk.read_bytes() == before

    brought(provisioned, host.address, disk)
    assert_whole(provisioned, disk)


def test_a_disk_that_takes_no_more_is_one_sentence_and_starts_nothing(
    host: Rescue, provisioned: Provisioned, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=True)
    try:
        with (small / "disk").open("wb") as file:
            file.truncate(LARGE)
        with loop(small / "disk") as device:
            with pytest.raises(RemoteError, match=rf"{device} of 127.0.0.1 can't be written at [\d,]+: \w+") as caught:
                brought(provisioned, host.address, device)
            assert "\n" not in str(caught.value)
            assert "nothing starts from it" in str(caught.value.hint)
            assert_starts_nothing(device)
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_bit_that_was_lost_on_the_disk_is_found_and_sent_again(
    host: Rescue, provisioned: Provisioned, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, rounds = FarDisk.write, iter(range(99))

    def lose_a_bit(self: FarDisk, places: Iterable[Place], cells: Iterable[Cell]) -> Iterator[int]:
        yield from write(self, places, cells)
        if next(rounds) in lost:
            with disk.open("r+b") as file:
                file.seek(9 * MIB + 77)
                byte = file.read(1)[0]
                file.seek(9 * MIB + 77)
                file.write(bytes([byte ^ 1]))

    monkeypatch.setattr(FarDisk, "write", lose_a_bit)
    lost = {0}
    brought(provisioned, host.address, disk)
    assert_whole(provisioned, disk)

    lost = set(range(99))
    disk.write_bytes(bytes(LARGE))
    with pytest.raises(RemoteError, match=r"gives back other bytes than were written to it, at 8,388,608 and after"):
        brought(provisioned, host.address, disk)
    assert_starts_nothing(disk)


def test_another_disk_in_its_place_is_not_touched(host: Rescue, image: Image, disk: Path) -> None:
    before = disk.read_bytes()

    with pytest.raises(RemoteError, match="it is another disk than before"):
        brought(Provisioned(image, SECRET, LARGE + MIB), host.address, disk)

    assert disk.read_bytes() == before


def test_the_disks_over_there_are_told_and_a_mounted_one_is_refused(host: Rescue, tmp_path: Path) -> None:
    with (tmp_path / "empty").open("wb") as file:
        file.truncate(64 * MIB)
    with loop(tmp_path / "empty") as device, connected(host.address) as shell:
        assert refusal(named(device, far_disks(shell)), needed_bytes=LARGE) is None
        assert "it holds 67,108,864 bytes" in str(refusal(named(device, far_disks(shell)), needed_bytes=65 * MIB))
        host.inside("mkfs.ext4", "-q", str(device))
        host.inside("mount", str(device), "/mnt")
        try:
            assert refusal(named(device, far_disks(shell)), needed_bytes=LARGE) == "it is mounted at /mnt"
        finally:
            host.inside("umount", "/mnt")


def test_a_rescue_system_without_zstd_is_served_by_gzip(
    package_tree: Callable[[Role], Path], provisioned: Provisioned, disk: Path, tmp_path: Path
) -> None:
    with rescue(tmp_path / "plain", package_tree(Role.PROXY)) as plain:
        plain.inside("rm", "-f", "/usr/bin/zstd")

        done = brought(provisioned, plain.address, disk)

    assert done.sent_bytes < provisioned.data_bytes()
    assert_whole(provisioned, disk)


def test_a_disk_that_was_written_is_known_again_and_a_host_that_does_no_work_is_told_so(
    host: Rescue, image: Image, provisioned: Provisioned, disk: Path, tmp_path: Path
) -> None:
    brought(provisioned, host.address, disk)
    host.inside("sh", "-c", f"echo quiet roothash={image.root_hash} rw >/run/cmdline")
    host.inside("mount", "--bind", "/run/cmdline", "/proc/cmdline")
    try:
        with connected(host.address) as shell:
            system, units, tunnel = host_checks(image, shell, disk)
            with disk.open("r+b") as file:
                file.seek(9 * MIB)
                file.write(b"x")
            changed, *_ = host_checks(image, shell, disk)
    finally:
        host.inside("umount", "/proc/cmdline")

    assert system.right, system.said
    # It is no system with units and a tunnel.
    assert (units.right, tunnel.right, tunnel.said) == (False, False, "it is not there")
    assert (changed.right, changed.said) == (False, "root: other bytes")


def test_the_other_host_is_reached_through_the_first_whose_key_is_checked_too(host: Rescue, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"gate {(host.folder / 'hostkey.pub').read_text()}\n")
    gate = replace(host.address, known_hosts=known, options=(*host.address.options, "HostKeyAlias=gate"))

    with connected(host.address.through(gate)) as shell:
        assert shell.text("echo through") == "through"

    known.write_text(f"gate {ssh_pair(tmp_path / 'other')}\n")
    with pytest.raises(RemoteError, match="has another host key"), connected(host.address.through(gate)):
        pass


# --- who is at the other end


def refused(address: Address) -> RemoteError:
    with pytest.raises(RemoteError) as caught, connected(address):
        pass
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_a_wrong_key_is_one_sentence(host: Rescue, tmp_path: Path) -> None:
    ssh_pair(tmp_path / "other")
    (tmp_path / "other").chmod(0o600)

    error = refused(replace(host.address, identity=tmp_path / "other"))

    assert str(error) == f"root@127.0.0.1:{host.port} does not let this key in"
    assert "--identity FILE" in str(error.hint)


def test_a_changed_host_key_is_one_sentence_and_nobody_is_asked(host: Rescue, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{host.port} {ssh_pair(tmp_path / 'other')}\n")

    error = refused(replace(host.address, known_hosts=known))

    assert "has another host key than the one known here" in str(error)
    assert "ssh-keygen -R" in str(error.hint)


def test_an_unknown_host_key_is_not_taken_on_trust(host: Rescue, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").touch()

    error = refused(replace(host.address, known_hosts=tmp_path / "known_hosts"))

    assert "has a host key that is not known here" in str(error)
    assert (tmp_path / "known_hosts").read_text() == ""


def test_a_host_that_does_not_answer_is_one_sentence(host: Rescue) -> None:
    port = free_port()

    error = refused(replace(host.address, port=port, known_hosts=host.known_hosts(port)))

    assert "can't be reached: connect to host 127.0.0.1" in str(error)


def test_without_an_ssh_client_the_package_is_named(
    host: Rescue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setenv("PATH", str(tmp_path))

    with (
        pytest.raises(ImagebuilderError, match="there is no program 'ssh' on this machine") as caught,
        connected(host.address),
    ):
        pass
    assert caught.value.hint == "apt install openssh-client"


def test_what_scripts_print_and_how_they_end_comes_back(host: Rescue) -> None:
    with connected(host.address) as shell:
        assert shell.text("echo one; echo; printf two") == "one\n\ntwo"
        assert shell.text("take 70000 | sha256sum; take 3", feed=[b"x" * 70000, b"end"]).endswith("-\nend")
        with pytest.raises(RemoteError, match="no such thing"):
            shell.text("echo no such thing; false")
        assert list(shell.lines("for i in 1 2 3; do echo $i; done")) == ["1", "2", "3"]
        with pytest.raises(RemoteError, match="ended with status 7"):
            shell.text("exit 7")


# --- the command


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generation:
    """A generation of two small images, with their secrets beside it."""
    monkeypatch.setenv("IMAGEBUILDER_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("imagebuilder.commands.upload.needed_bytes", lambda image: image.size_bytes)
    # What makes the file system is a program of the tools, which this store has none of.
    monkeypatch.setattr("imagebuilder.commands.cargo.secrets_filesystem", lambda *_, **__: b"SECRETS")
    return generation(tmp_path)


def upload_command(host: Rescue, disk: Path, tmp_path: Path, *more: str) -> list[str]:
    known, site = host.known_hosts(host.port), tmp_path / "topology.toml"
    argv = ["upload", "proxy", f"ssh://root@127.0.0.1:{host.port}", "--device", str(disk), "--no-wait", *more]
    return [*argv, "--identity", str(host.folder / "id"), "--known-hosts", str(known), "-t", str(site)]


def test_the_command_writes_starts_the_machine_anew_and_notes_where_it_went(
    host: Rescue, disk: Path, made: Generation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attest(Store(tmp_path / "store"), made)
    host.inside("sh", "-c", "printf '#!/bin/sh\necho started >/run/anew\n' >/usr/local/sbin/reboot")
    host.inside("chmod", "+x", "/usr/local/sbin/reboot")

    assert main(upload_command(host, disk, tmp_path, "--yes", "--json")) == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["device"], told["tested"], told["connections"]) == (str(disk), True, 1)
    assert disk.read_bytes()[SECRETS : SECRETS + 8] == b"SECRETS\0"
    (shipment,) = made.shipped()
    assert str(disk) in shipment["where"]
    assert f"at root@127.0.0.1:{host.port}" in shipment["where"]
    assert waited_for(lambda: "started" in host.inside("sh", "-c", "cat /run/anew || true"))


def waited_for(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not (there := true()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return there


@pytest.mark.parametrize("typed", ["", "y", "sda"])
def test_nothing_is_written_unless_the_disks_name_is_typed(
    host: Rescue, disk: Path, made: Generation, tmp_path: Path, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attest(Store(tmp_path / "store"), made)
    before = disk.read_bytes()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdin.readline", lambda: f"{typed}\n")

    assert main(upload_command(host, disk, tmp_path, "--no-reboot")) == 1
    assert disk.read_bytes() == before

    monkeypatch.setattr("sys.stdin.readline", lambda: f"{disk.name}\n")
    assert main(upload_command(host, disk, tmp_path, "--no-reboot")) == 0


def test_what_must_not_leave_reaches_no_host(
    host: Rescue, disk: Path, made: Generation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = disk.read_bytes()

    def refused_because(reason: str, status: int) -> None:
        with Road(host.port) as road:
            argv = [word.replace(str(host.port), str(road.port)) for word in upload_command(host, disk, tmp_path)]
            assert main([*argv, "--yes"]) == status
            assert road.connections == 0
        assert reason in capsys.readouterr().err

    refused_because("generation 1 has not passed its test", 1)
    attest(Store(tmp_path / "store"), made)
    image = made.record.images[Role.PROXY].path
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"?")
    refused_because("has changed since it was built", 1)
    image.write_bytes(content)
    secrets = tmp_path / "topology.secrets.toml"
    secrets.unlink()
    refused_because("there are no secrets at", 1)
    init(tmp_path / "topology.toml", plain=True)
    refused_because("the secrets don't belong to generation 1", 2)
    assert disk.read_bytes() == before


def test_a_disk_that_is_not_there_in_use_or_too_small_is_refused(
    host: Rescue,
    disk: Path,
    made: Generation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    attest(Store(tmp_path / "store"), made)

    assert main(upload_command(host, Path("/dev/nothing"), tmp_path, "--yes")) == 2
    assert "127.0.0.1 has no /dev/nothing" in capsys.readouterr().err
    monkeypatch.setattr("imagebuilder.commands.upload.needed_bytes", lambda _: 2 * LARGE)
    assert main(upload_command(host, disk, tmp_path, "--yes")) == 2
    assert f"it holds {LARGE:,} bytes, the system needs" in capsys.readouterr().err


def test_status_knows_a_host_by_its_key_and_says_what_is_wrong_with_it(
    host: Rescue, made: Generation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["status", "proxy", f"root@127.0.0.1:{host.port}", "--identity", str(host.folder / "id")]
    argv += ["-t", str(tmp_path / "topology.toml")]

    assert main(argv) == 1
    assert "WRONG ssh: 127.0.0.1: its host key is not the one of this generation" in capsys.readouterr().out

    public = made.topology.with_suffix(".public.toml")
    ours, its = (load_public_keys(public).ssh.proxy, (host.folder / "hostkey.pub").read_text().strip())
    public.write_text(public.read_text().replace(ours, its))
    assert main([*argv, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    right = {check["name"]: check["right"] for check in told["checks"]}
    # A rescue system that we may log in to, and nothing else.
    assert (told["right"], right.pop("ssh")) == (False, True)
    assert set(right.values()) == {False}
    assert len(right) == 6
