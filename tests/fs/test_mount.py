"""Opening and closing: what a crash leaves, what a new mount voids, what read-only means."""

from __future__ import annotations

import errno
import gc
import os
import sys
from pathlib import Path

import pytest
from volumes import (
    REGULAR,
    ManualClock,
    VolumeBed,
    findings_of,
    idle,
    remove_tree,
    validate_empty,
    validate_image,
    validate_volume,
)

from pmemfs.errors import DamagedImageError, ImageBusyError, PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.inodes import _CACHE_LIMIT
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import INODES_PER_EXTENT, PAGE_BYTES
from pmemfs.layout.records import Kind
from pmemfs.units import MIB


def path_of(volume: Volume) -> Path:
    return Path(volume.image.name)


def test_closing_leaves_it_clean(bed: VolumeBed, volume: Volume) -> None:
    assert volume.was_clean
    volume.create(ROOT_INO, b"file", REGULAR)
    volume = bed.reopen(volume)
    assert volume.was_clean
    assert volume.replay is None
    volume.close()
    volume.close()


def test_a_crash_loses_nothing_that_was_stored(bed: VolumeBed, volume: Volume) -> None:
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.write(ino, 0, b"x" * 3 * MIB)
    volume.write(ino, 100, b"overwritten, not synced")
    volume = bed.reopen(volume, crash=True)
    assert not volume.was_clean
    assert volume.replay is not None
    assert b"".join(volume.read(ino, 100, 23)) == b"overwritten, not synced"
    volume = bed.reopen(volume, crash=True)
    assert volume.replay is None, "nothing was committed since"


def test_each_mount_raises_the_generation_before_anything_else(
    bed: VolumeBed, volume: Volume
) -> None:
    seen = [volume.image.control()["generation"]]
    for crash in (True, False, True):
        volume = bed.reopen(volume, crash=crash)
        seen.append(volume.image.control()["generation"])
        assert volume.tables is not None
        assert volume.tables.split_extents == 0
    assert seen == sorted(set(seen))
    assert volume.image.control()["state"] == 1


def test_tables_of_a_killed_daemon_are_void(bed: VolumeBed, volume: Volume) -> None:
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.write(ino, 0, b"x" * 5000)
    assert volume.tables is not None
    assert volume.tables.split_extents == 1
    volume = bed.reopen(volume, crash=True)
    validate_volume(volume)
    volume.read(ino, 0, 1)
    validate_volume(volume)


def test_a_second_mount_is_kept_out(volume: Volume) -> None:
    for options in (Options(), Options(read_only=True)):
        with pytest.raises(ImageBusyError, match="in use"):
            Volume.open(path_of(volume), options)


def test_read_only_writes_nothing(bed: VolumeBed, volume: Volume, clock: ManualClock) -> None:
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.write(ino, 0, b"x" * 5000)
    path = path_of(volume)
    volume.abandon()
    before = path.read_bytes()
    blocks = path.stat().st_blocks
    os.chmod(path, 0o400)
    with bed.open(path, read_only=True, atime="relatime") as volume:
        assert volume.replay is not None, "replayed in memory"
        assert b"".join(volume.read(ino, 0, 9999)) == b"x" * 5000
        with bed.open(path, read_only=True) as second:
            assert second.lookup(ROOT_INO, b"file").ino == ino
        for call in (
            lambda: volume.create(ROOT_INO, b"x", REGULAR),
            lambda: volume.mkdir(ROOT_INO, b"x", 0o755),
            lambda: volume.symlink(ROOT_INO, b"x", b"y"),
            lambda: volume.link(ino, ROOT_INO, b"x"),
            lambda: volume.tmpfile(ROOT_INO, 0o600),
            lambda: volume.unlink(ROOT_INO, b"file"),
            lambda: volume.rmdir(ROOT_INO, b"file"),
            lambda: volume.rename(ROOT_INO, b"file", ROOT_INO, b"x"),
            lambda: volume.write(ino, 0, b"x"),
            lambda: volume.setattr(ino, size=0),
            lambda: volume.setattr(ino, mode=0o600),
            lambda: volume.fallocate(ino, 0, 0, 9),
            lambda: volume.setxattr(ino, b"user.a", b""),
            lambda: volume.removexattr(ino, b"user.a"),
            lambda: volume.set_inode_flags(ino, 0),
        ):
            with pytest.raises(PmemfsError) as caught:
                call()
            assert caught.value.errno == errno.EROFS
        volume.hold(ino)
        volume.fsync(ino)
        volume.release(ino)
    os.chmod(path, 0o600)
    assert path.read_bytes() == before
    assert path.stat().st_blocks == blocks
    bed.open(path)


def test_read_only_reads_an_image_that_another_reads(bed: VolumeBed, volume: Volume) -> None:
    path = path_of(volume)
    volume.close()
    with bed.open(path, read_only=True), pytest.raises(ImageBusyError):
        bed.open(path)


def test_orphans_are_freed_after_a_crash(bed: VolumeBed, volume: Volume) -> None:
    free = volume.pool.free_pages
    for name, size in ((b"long", 30 * MIB), (b"held", 5000), (b"both", 15 * MIB)):
        ino = volume.create(ROOT_INO, name, REGULAR).ino
        volume.write(ino, 0, b"x" * size)
        if name != b"long":
            volume.hold(ino)
        volume.unlink(ROOT_INO, name)
    cut = volume.create(ROOT_INO, b"cut", REGULAR).ino
    volume.write(cut, 0, b"x" * 27 * MIB)
    volume.setattr(cut, size=10)
    assert len(volume.orphans) == 4
    volume = bed.reopen(volume, crash=True)
    assert len(volume.orphans) == 4
    idle(volume)
    assert len(volume.orphans) == 0
    assert volume.inode(cut).size == 10
    assert volume.inode(cut).pages <= 512
    volume.unlink(ROOT_INO, b"cut")
    idle(volume)
    assert volume.pool.free_pages == free


def test_closing_frees_what_only_a_hold_kept(bed: VolumeBed, volume: Volume) -> None:
    ino = volume.create(ROOT_INO, b"held", REGULAR).ino
    volume.hold(ino, 3)
    volume.unlink(ROOT_INO, b"held")
    volume.release(ino, 2)
    assert volume.inode(ino).nlink == 0
    volume = bed.reopen(volume)
    idle(volume)
    validate_empty(volume)


def test_relatime(bed: VolumeBed, clock: ManualClock) -> None:
    volume = bed.make(atime="relatime")
    inode = volume.create(ROOT_INO, b"file", REGULAR)
    ino = inode.ino
    volume.write(ino, 0, b"x")

    def read_after(seconds: float) -> bool:
        clock.advance(seconds)
        before = volume.inode(ino).atime_ns
        volume.read(ino, 0, 1)
        return volume.inode(ino).atime_ns != before

    assert read_after(1), "it was older than the change"
    assert not read_after(1)
    assert not read_after(23 * 3600)
    assert read_after(3600), "it was older than a day"
    volume.setattr(ino, mode=0o600)
    assert read_after(1)


def test_inode_chunks_come_and_go(bed: VolumeBed) -> None:
    volume = bed.make(256 * MIB)
    names = [b"%d" % number for number in range(INODES_PER_EXTENT + 100)]
    for name in names:
        volume.create(ROOT_INO, name, REGULAR)
    assert volume.pool.counts[Kind.INODES] == 2
    volume = bed.reopen(volume)
    assert volume.inodes.in_use == len(names) + 1
    last = volume.lookup(ROOT_INO, names[-1]).ino
    assert last >= INODES_PER_EXTENT
    remove_tree(volume)
    idle(volume)
    assert volume.pool.counts[Kind.INODES] == 1
    validate_empty(volume)
    with pytest.raises(PmemfsError) as caught:
        volume.inode(last)
    assert caught.value.errno == errno.ENOENT


def test_memory_does_not_grow_with_the_files(bed: VolumeBed) -> None:
    """What is cached is bounded, whatever the image holds; not so with what is held."""
    volume = bed.make(256 * MIB)
    names = [b"%d" % number for number in range(2 * _CACHE_LIMIT)]
    for name in names:
        volume.create(ROOT_INO, name, REGULAR)
    for name in names:
        volume.lookup(ROOT_INO, name)
    assert len(volume.inodes._cache) <= _CACHE_LIMIT + 1
    gc.collect()
    sizes = [sys.getsizeof(volume.inodes._cache), len(volume.inodes.holds)]
    assert sizes[0] < 1 << 20
    assert sizes[1] == 0
    ino = volume.lookup(ROOT_INO, names[0]).ino
    volume.hold(ino)
    volume.unlink(ROOT_INO, names[0])
    for name in names[1:]:
        volume.lookup(ROOT_INO, name)
    assert volume.inode(ino).nlink == 0
    volume.release(ino)


def test_dirty_pages_are_not_forgotten_with_their_inode(bed: VolumeBed) -> None:
    volume = bed.make(256 * MIB)
    ino = volume.create(ROOT_INO, b"dirty", REGULAR).ino
    volume.write(ino, 0, b"x" * PAGE_BYTES)
    volume.write(ino, 0, b"y" * PAGE_BYTES)
    assert volume.inode(ino).dirty
    for number in range(_CACHE_LIMIT + 100):
        volume.create(ROOT_INO, b"%d" % number, REGULAR)
        volume.lookup(ROOT_INO, b"%d" % number)
    before = volume.device.counters.copy()
    volume.fsync(ino)
    assert volume.device.counters.since(before).lines_flushed == 64


# -- images that cannot be opened ----------------------------------------------------------------


def test_what_is_no_image(image_dir: Path) -> None:
    path = image_dir / "x.img"
    with pytest.raises(PmemfsError, match="there is no image") as caught:
        Volume.open(path)
    assert caught.value.errno == errno.ENOENT
    path.write_bytes(b"short")
    with pytest.raises(DamagedImageError, match="too few"):
        Volume.open(path)
    os.truncate(path, 64 * MIB)
    with pytest.raises(DamagedImageError, match="no pmemfs magic"):
        Volume.open(path)
    with pytest.raises(PmemfsError, match="is a directory"):
        Volume.open(image_dir)


def test_one_superblock_is_enough(bed: VolumeBed, volume: Volume) -> None:
    path, backup = path_of(volume), volume.geometry.backup_superblock_offset
    volume.close()
    with path.open("r+b") as file:
        good = file.read(PAGE_BYTES)
        file.seek(0)
        file.write(bytes(PAGE_BYTES))
    with Volume.open(path) as volume:
        assert volume.image.superblock_problems == [
            "superblock: no pmemfs magic (device offset 0x0)"
        ]
    assert any("superblock" in finding for finding in findings_of(path))
    with path.open("r+b") as file:
        file.write(good)
        file.seek(backup)
        file.write(b"\xff" * 512)
    with Volume.open(path) as volume:
        assert len(volume.image.superblock_problems) == 1
    with path.open("r+b") as file:
        file.seek(backup)
        file.write(good)
    validate_image(path)
    bed.open(path)


def test_an_image_cut_short_is_refused(image_dir: Path) -> None:
    path = image_dir / "x.img"
    Volume.format(path, 128 * MIB)
    os.truncate(path, 100 * MIB)
    with pytest.raises(DamagedImageError, match="cut short"):
        Volume.open(path)


def test_a_refused_image_can_be_opened_later(image_dir: Path) -> None:
    """A failed open leaves no lock and no file descriptor behind."""
    path = image_dir / "x.img"
    Volume.format(path, 64 * MIB)
    before = len(os.listdir("/proc/self/fd"))
    holder = Volume.open(path)
    for _ in range(5):
        with pytest.raises(ImageBusyError):
            Volume.open(path)
    holder.close()
    with Volume.open(path):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
