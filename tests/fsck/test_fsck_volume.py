"""What the engine leaves is clean to the checker, closed or killed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from fsck_image import checked

from pmemfs.fs import Volume
from pmemfs.fsck import Report
from pmemfs.layout.geometry import EXTENT_BYTES, MAX_FILE_BYTES, MIN_DEVICE_BYTES, ROOT_INO
from pmemfs.units import TIB

FILE = stat.S_IFREG | 0o644


def found(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings]


def populate(volume: Volume) -> None:
    """Use every record of the format at least once."""
    directory = volume.mkdir(ROOT_INO, b"many", 0o755).ino
    for i in range(400):
        volume.create(directory, b"a name of some length, number %d" % i, FILE)
    for i in range(0, 400, 3):
        volume.unlink(directory, b"a name of some length, number %d" % i)
    small = volume.create(ROOT_INO, b"small", FILE).ino
    volume.write(small, 0, b"x" * 10_000)
    volume.setxattr(small, b"user.colour", b"red")
    volume.link(small, directory, b"again")
    large = volume.create(ROOT_INO, b"large", FILE).ino
    volume.write(large, 0, b"y" * (EXTENT_BYTES + 5000))
    scattered = volume.create(ROOT_INO, b"scattered", FILE).ino
    for i in range(30):
        volume.write(scattered, i * 12_288, b"z" * 4096)
    volume.write(scattered, MAX_FILE_BYTES - 10, b"the end")
    volume.symlink(ROOT_INO, b"short", b"target")
    volume.symlink(ROOT_INO, b"long", b"target/" * 500)
    volume.create(ROOT_INO, b"fifo", stat.S_IFIFO | 0o600)
    volume.setattr(large, size=100)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    Volume.format(path, MIN_DEVICE_BYTES)
    return path


def test_fresh_volume(path: Path) -> None:
    report = checked(path)
    assert found(report) == []
    assert (report.directories, report.extents_in_use(), report.pages_used) == (1, 4, 0)


def test_closed_volume(path: Path) -> None:
    with Volume.open(path) as volume:
        populate(volume)
    report = checked(path)
    assert found(report) == []
    assert (report.was_closed, report.replayed, report.orphans) == (True, None, 0)
    assert (report.symlinks, report.directories, report.others) == (2, 2, 1)


def test_killed_volume(path: Path) -> None:
    volume = Volume.open(path)
    populate(volume)
    volume.hold(volume.create(ROOT_INO, b"held", FILE).ino)
    volume.unlink(ROOT_INO, b"held")
    volume.abandon()
    report = checked(path)
    assert found(report) == []
    assert not report.was_closed
    assert report.replayed is not None
    assert report.orphans == 1


def test_fresh_volume_of_terabytes(tmp_path: Path) -> None:
    path = tmp_path / "huge.img"
    Volume.format(path, 4 * TIB)
    blocks = path.stat().st_blocks
    report = checked(path)
    assert found(report) == []
    assert report.extents["free"] > 2_000_000
    assert path.stat().st_blocks == blocks
