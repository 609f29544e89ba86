"""Bytes that a file did not write read as zero, whatever lay there before."""

from __future__ import annotations

from typing import Any

import pytest
from volumes import REGULAR, VolumeBed

from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.records import MapKind

PIECE = 2 << 20
LONG = 20  # whole extents: more than one transaction frees


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


def test_zeros_copied_over_data_promote_it_and_are_there(bed: VolumeBed) -> None:
    volume = bed.make(threshold_pages=4)
    holes = volume.create(ROOT_INO, b"holes", REGULAR).ino
    volume.setattr(holes, size=8 * 4096)
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.write(ino, 0, b"x" * 2 * 4096)
    assert volume.copy_range(holes, 0, ino, 4096, 4 * 4096) == 4 * 4096
    assert read(volume, ino, 0, 9 * 4096) == b"x" * 4096 + bytes(4 * 4096)


@pytest.mark.parametrize("recycled", [False, True], ids=["fresh node", "recycled node"])
def test_a_write_that_makes_the_map_a_tree_exposes_nothing(bed: VolumeBed, recycled: bool) -> None:
    """The tail is found by the map as it was; the new node page is not on the device yet."""
    volume = bed.make(threshold_pages=512)
    if recycled:  # leave a free metadata page that names page 1 of another file, word by word
        victim = volume.create(ROOT_INO, b"victim", REGULAR)
        volume.write(victim.ino, 0, b"v" * 4096)
        assert victim.runs is not None
        words = victim.runs[0][2].to_bytes(8, "little") * 400
        volume.setxattr(ROOT_INO, b"user.name", bytes(3) + words)
        volume.removexattr(ROOT_INO, b"user.name")
        volume = bed.reopen(volume)
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    for number in range(9):
        volume.write(ino, number * 2 * 4096, b"x" * 4096)
    assert volume.inode(ino).map_kind == MapKind.RUNS
    end = 16 * 4096 + 10
    volume.setattr(ino, size=end)
    volume.write(ino, 18 * 4096, b"y")
    assert volume.inode(ino).map_kind == MapKind.TREE
    assert read(volume, ino, end, 8000) == bytes(8000)
    if recycled:
        ino = volume.lookup(ROOT_INO, b"victim").ino
        assert read(volume, ino, 0, 4096) == b"v" * 4096
