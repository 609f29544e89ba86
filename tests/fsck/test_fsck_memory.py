"""What fsck takes of memory is bounded by what the host holds, whatever the image claims."""

from __future__ import annotations

import stat
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import fsck_image as fi
import pytest
from fsck_image import HandImage, checked

from pmemfs.fs import Volume
from pmemfs.fsck import everything, repair
from pmemfs.layout.geometry import (
    INODE_BYTES,
    INODES_PER_EXTENT,
    PAGE_BYTES,
    Geometry,
    extent_to_offset,
)
from pmemfs.layout.records import HEAD, MAP_WORDS, Kind
from pmemfs.units import GIB, MIB

SIZE = GIB
N_CHUNKS = 508
N_LAST = 50


@pytest.fixture
def lying(image_dir: Path) -> Path:
    """1 GiB of inodes in use, as the heads say: 4 million, of which the host has nothing."""
    path = image_dir / "lying.img"
    Volume.format(path, SIZE)
    geometry = Geometry.of_size(SIZE)
    with path.open("r+b") as file:
        for extent in range(geometry.reserve_extent + 1, geometry.n_extents):
            number = extent - geometry.reserve_extent
            head = HEAD.pack(kind=Kind.INODES, used=8192, index=number, frontier=8192)[:28]
            file.seek(geometry.head_offset(extent))
            file.write(head + zlib.crc32(head).to_bytes(4, "little"))
    assert path.stat().st_blocks * 512 < 100_000
    return path


def last_inodes(path: Path) -> None:
    """Let the last inode of some chunks be there, with a wrong checksum."""
    first = Geometry.of_size(SIZE).reserve_extent + 1
    with path.open("r+b") as file:
        for extent in range(first, first + N_LAST):
            file.seek(extent_to_offset(extent + 1) - INODE_BYTES)
            file.write(b"\xff" * 200)


def peak_bytes(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_chunks_over_holes_are_not_expanded(lying: Path) -> None:
    report = checked(lying)
    assert report.counts == {"chunk-zeros": N_CHUNKS, "chunk-used": N_CHUNKS}
    assert peak_bytes(lambda: checked(lying)) < 8 * MIB


def test_their_repair_returns_the_extents(lying: Path) -> None:
    before = lying.stat().st_blocks
    assert peak_bytes(lambda: repair(lying, decide=everything)) < 16 * MIB
    assert checked(lying).is_clean
    assert (lying.stat().st_blocks - before) * 512 < 8 * MIB
    with Volume.open(lying) as volume:
        volume.mkdir(1, b"d", 0o755)
    assert checked(lying).is_clean


def test_zeros_between_inodes_are_one_finding(lying: Path) -> None:
    last_inodes(lying)
    report = checked(lying)
    assert report.counts["chunk-zeros"] == N_CHUNKS
    assert report.counts["inode-checksum"] == N_LAST
    slots_bytes = 24 * N_LAST * INODES_PER_EXTENT  # columns of the table, none for a finding
    assert peak_bytes(lambda: checked(lying)) < slots_bytes + 16 * MIB


@pytest.mark.parametrize(
    ("pages", "check_id"),
    [(511, "map-owner"), ((1 << 16) - 1, "map-word")],
    ids=["owned", "endless"],
)
def test_maps_that_claim_what_is_not_theirs(image: HandImage, pages: int, check_id: str) -> None:
    """12 inodes, each with 17 runs of the pages of another file, or over the ends of extents."""
    first, n = fi.FRONTIER, 12
    for ino in range(first, first + n):
        words = [fi.run(fi.FILE_PFN, pages)] * MAP_WORDS
        fields = {"pages": MAP_WORDS * pages, "size": MAP_WORDS * pages * PAGE_BYTES}
        image.add_inode(ino, stat.S_IFREG, map=words, **fields)
    image.patch_head(fi.INODES, used=10 + n, frontier=first + n)
    assert image.check().counts == {check_id: n * MAP_WORDS, "inode-unreachable": n}
    assert peak_bytes(lambda: repair(image.path, decide=everything)) < 24 * MIB
    assert image.check().is_clean
