"""One bit of a record with a checksum flips: the engine refuses it, and believes nothing of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmemfs.errors import DamagedImageError
from pmemfs.fs import Options, Volume
from pmemfs.fsck import check
from pmemfs.image import Image
from pmemfs.layout.geometry import EXTENT_BYTES, HEAD_DURABLE_BYTES, ROOT_INO
from pmemfs.layout.records import INODE, SUPERBLOCK, Kind

FILE = stat.S_IFREG | 0o644
NAMES = (b"empty", b"small", b"large")


@pytest.fixture
def path(image_dir: Path) -> Path:
    """A closed image with a file without data, one with a page, one with whole extents."""
    path = image_dir / "disk.img"
    Volume.format(path, 64 << 20, lost_found=True)
    with Volume.open(path) as volume:
        for name, data in zip(NAMES, (b"", b"x" * 5000, b"y" * (2 * EXTENT_BYTES))):
            volume.write(volume.create(ROOT_INO, name, FILE).ino, 0, data)
        volume.symlink(ROOT_INO, b"link", b"small")
    return path


def iter_flips(path: Path, offset: int, length: int) -> Iterator[int]:
    """Flip a bit of each byte of a record in turn; yield where, and set it right again."""
    fd = os.open(path, os.O_RDWR)
    try:
        for place in range(offset, offset + length):
            byte = os.pread(fd, 1, place)
            os.pwrite(fd, bytes([byte[0] ^ 1 << place % 7]), place)
            yield place
            os.pwrite(fd, byte, place)
    finally:
        os.close(fd)


def reader(path: Path) -> Volume:
    return Volume.open(path, Options(read_only=True))


def is_found(path: Path) -> bool:
    image = Image.open(path, lock="shared")
    try:
        return not check(image).is_clean
    finally:
        image.close()


def places_of_heads(path: Path) -> list[int]:
    """Return the offsets of the head of one extent of each kind but free and returned."""
    image = Image.open(path, lock="shared")
    try:
        heads = list(enumerate(image.heads["kind"].tolist()))
        first = {kind: extent for extent, kind in reversed(heads)}
        kinds = first.keys() - {Kind.FREE, Kind.RETURNED}
        assert len(kinds) == 6
        return [image.geometry.head_offset(first[kind]) for kind in sorted(kinds)]
    finally:
        image.close()


def test_inodes(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Volume.open(path) as volume:
        names = {volume.lookup(ROOT_INO, name).offset: name for name in (*NAMES, b"link")}
    for offset, name in names.items():
        for place in iter_flips(path, offset, INODE.size_bytes):
            with reader(path) as volume, pytest.raises(DamagedImageError):
                volume.lookup(ROOT_INO, name)
            assert place % 16 or is_found(path)
    caplog.clear()


def test_heads(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An image with a damaged head is not opened."""
    for offset in places_of_heads(path):
        for _ in iter_flips(path, offset, HEAD_DURABLE_BYTES):
            with pytest.raises(DamagedImageError):
                Volume.open(path)
            assert is_found(path)
    caplog.clear()


def test_superblocks(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Either copy is enough, and nothing of the other is believed."""
    with reader(path) as volume:
        geometry, superblock = volume.geometry, volume.image.superblock
    for offset in (0, geometry.backup_superblock_offset):
        for _ in iter_flips(path, offset, SUPERBLOCK.size_bytes):
            with reader(path) as volume:
                assert (volume.geometry, volume.image.superblock) == (geometry, superblock)
            assert is_found(path)
    caplog.clear()
