"""Disks of runs that were killed go away; those of runs that live stay."""

from pathlib import Path

from imagebuilder.vm.session import private_disks


def test_the_next_run_removes_the_disks_of_a_killed_one(tmp_path: Path) -> None:
    left = tmp_path / "killed/disks"
    left.mkdir(parents=True)
    (left / "client.qcow2").write_bytes(b"left")
    (tmp_path / "new").mkdir()

    with private_disks(tmp_path / "new") as disks:
        assert disks.is_dir()
        assert not left.exists()

    assert not disks.exists()


def test_a_run_beside_it_keeps_its_disks(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()

    with private_disks(tmp_path / "one") as first, private_disks(tmp_path / "two") as second:
        assert first.is_dir()
        assert second.is_dir()
