"""A deployed host as tests reach it: the shell at the end of a connection, here of a program that stands in for ssh."""

import os
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.shipping.remote import Address, LostError
from imagebuilder.topology import Role
from imagebuilder.vm import reached
from imagebuilder.vm.reached import Reached
from imagebuilder.vm.waiting import NATURAL, ExpectationError

HOST = Address("198.51.100.7")


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the program that is taken for ssh: it runs here what is to be run there."""
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\nexec sh -c "$1"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(reached, "FOLDER", str(tmp_path / "there"))
    return program


def of_ours(folder: Path) -> list[Path]:
    return list(folder.glob("there*"))


@pytest.mark.usefixtures("ssh")
def test_scripts_run_there_and_nothing_of_ours_stays(tmp_path: Path) -> None:
    parting = tmp_path / "parting words"
    with Reached(Role.CLIENT, HOST, NATURAL, farewell=f'ls "$BED_FOLDER" >"{parting}"') as client:
        assert client.succeed("echo 'one two'; echo kept >\"$BED_FOLDER/kept\"") == "one two\n"
        assert "no such" in client.fail("echo no such; exit 3")
        with pytest.raises(ExpectationError, match="status 4"):
            client.succeed("exit 4")
        client.write_file(str(tmp_path / "written"), b"\0\xff" * 700_000)
        assert len(of_ours(tmp_path)) == 1

    assert (tmp_path / "written").read_bytes() == b"\0\xff" * 700_000
    assert "kept" in parting.read_text()
    assert of_ours(tmp_path) == []


@pytest.mark.usefixtures("ssh")
def test_what_was_brought_goes_too_when_the_connection_breaks(tmp_path: Path) -> None:
    parting = tmp_path / "parting"
    with (
        Reached(Role.CLIENT, HOST, NATURAL, farewell=f"echo gone >{parting}") as client,
        pytest.raises(LostError, match=r"root@198\.51\.100\.7"),
    ):
        client.execute("kill -TERM $$; sleep 1", timeout_s=5)

    assert parting.read_text() == "gone\n"
    assert of_ours(tmp_path) == []


def test_why_there_is_no_way_in_is_a_sentence(ssh: Path) -> None:
    ssh.write_text("#!/bin/sh\necho 'ssh: connect to host h port 22: Connection refused' >&2\nexit 255\n")

    with pytest.raises(LostError, match="can't be reached: connect to host h"), Reached(Role.PROXY, HOST, NATURAL):
        pass


def test_without_ssh_it_says_which_package_has_it(ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh.unlink()
    monkeypatch.setenv("PATH", str(ssh.parent))

    with pytest.raises(ImagebuilderError, match="no program 'ssh'"), Reached(Role.PROXY, HOST, NATURAL):
        pass
