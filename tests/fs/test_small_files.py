"""Small files share extents: the case that handing out 2 MiB only cannot hold.

37,500 files holding 5 GB must fit into an 80 GB image with at most 5.2 GB used.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from volumes import ManualClock, VolumeBed

from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import PAGE_BYTES
from pmemfs.layout.records import Kind

GB = 10**9
FILES = 37_500
MOST_USED = 5.2 / 5.0


def used_bytes(volume: Volume) -> int:
    """What `df` shows as used, without what a fresh image shows."""
    status = volume.statfs()
    fixed = volume.geometry.fixed_extents * 512
    return (status.pages - status.free_pages - fixed) * PAGE_BYTES


def fill_with_small_files(volume: Volume, files: int, total: int) -> None:
    data = memoryview(b"small file " * (total // files // 11 + 1))[: total // files]
    for number in range(files):
        if number % 1000 == 0:
            directory = volume.mkdir(ROOT_INO, b"dir%d" % (number // 1000), 0o755).ino
        ino = volume.create(directory, b"file%d" % number, 0o100644).ino
        assert volume.write(ino, 0, data) == len(data)


def check(volume: Volume, files: int, total: int) -> None:
    assert used_bytes(volume) <= MOST_USED * total
    counts = volume.pool.counts
    taken = (counts[Kind.SMALL] + counts[Kind.METADATA] + counts[Kind.INODES]) << 21
    assert taken <= MOST_USED * total + (4 << 21), "nor hidden in half-empty extents"
    assert counts[Kind.WHOLE] == 0
    assert volume.inodes.in_use >= files


def test_a_twentieth_of_37_500_small_files(bed: VolumeBed) -> None:
    volume = bed.make(4 * GB)
    fill_with_small_files(volume, FILES // 20, 5 * GB // 20)
    check(volume, FILES // 20, 5 * GB // 20)
    assert volume.tables is not None
    descriptors = volume.tables.split_extents
    assert descriptors <= volume.pool.counts[Kind.SMALL], "32 KiB for each that was touched"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_37_500_small_files(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 8 * GB:
        pytest.skip("needs 8 GB of disk")
    bed = VolumeBed(tmp_path, ManualClock(), keep_dir=tmp_path)
    volume = bed.make(80 * GB)
    fill_with_small_files(volume, FILES, 5 * GB)
    check(volume, FILES, 5 * GB)
    assert volume.device.host_bytes <= 5.3 * GB
    volume = bed.reopen(volume)
    check(volume, FILES, 5 * GB)
    bed.finish()
