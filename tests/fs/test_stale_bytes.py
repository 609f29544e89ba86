"""Bytes that a file did not write read as zero, whatever lay there before."""

from __future__ import annotations

from typing import Any

import pytest
from volumes import REGULAR, VolumeBed

from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO

PIECE = 2 << 20
LONG = 13  # whole extents: more than one transaction frees


def read(volume: Volume, ino: int, offset: int, size: int) -> bytes:
    return b"".join(volume.read(ino, offset, size))


def long_file(bed: VolumeBed, **options: Any) -> tuple[Volume, int]:
    volume = bed.make(threshold_pages=1, **options)
    ino = volume.create(ROOT_INO, b"long", REGULAR).ino
    for piece in range(LONG):
        volume.write(ino, piece * PIECE, b"stale")
    volume.hold(ino)
    return volume, ino


@pytest.mark.parametrize("order", ["unlink, cut", "cut, unlink", "cut, replace"])
def test_a_long_cut_of_a_nameless_file_is_finished_before_it_grows(
    bed: VolumeBed, order: str
) -> None:
    volume, ino = long_file(bed)
    volume.create(ROOT_INO, b"other", REGULAR)
    if order == "unlink, cut":
        volume.unlink(ROOT_INO, b"long")
    volume.setattr(ino, size=5)
    if order == "cut, unlink":
        volume.unlink(ROOT_INO, b"long")
    elif order == "cut, replace":
        volume.rename(ROOT_INO, b"other", ROOT_INO, b"long")
    assert not volume.inode(ino).nlink
    volume.setattr(ino, size=LONG * PIECE)
    for piece in range(1, LONG):
        assert read(volume, ino, piece * PIECE, 5) == bytes(5), piece
    assert read(volume, ino, 0, 9) == b"stale" + bytes(4)
    volume.release(ino)


@pytest.mark.parametrize("end", [100, PIECE + 100])
def test_a_whole_extent_behind_the_end_exposes_nothing(bed: VolumeBed, end: int) -> None:
    volume = bed.make(threshold_pages=2)
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.write(ino, 0, b"x" * 2 * PIECE)
    volume.setattr(ino, size=end)
    volume.write(ino, 4 * PIECE, b"y" * 9000)
    assert read(volume, ino, end, 9000) == bytes(9000)
