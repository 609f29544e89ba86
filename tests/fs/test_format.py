"""mkfs: tens of KiB whatever the size, and one clear sentence for what cannot be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from volumes import validate_image

from pmemfs.errors import ImageBusyError, PmemfsError
from pmemfs.fs import Volume
from pmemfs.fs.format import format_image
from pmemfs.layout.geometry import HEAD_BYTES, PAGE_BYTES, Geometry
from pmemfs.units import GIB, KIB, MIB, TIB

SIZES = [64 * MIB, GIB, TIB, 16 * TIB]


def host_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def data_bytes(path: Path) -> int:
    """Count what is not a hole."""
    total, position = 0, 0
    with path.open("rb") as file:
        while True:
            try:
                low = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                return total
            position = os.lseek(file.fileno(), low, os.SEEK_HOLE)
            total += position - low


@pytest.fixture
def shm(image_dir: Path) -> Path:
    """A directory on tmpfs: the only host here that takes a file of 16 TiB."""
    if not str(image_dir).startswith("/dev/shm"):
        pytest.skip("no /dev/shm")
    return image_dir


@pytest.mark.parametrize("size_bytes", SIZES)
def test_mkfs_writes_tens_of_kib_whatever_the_size(shm: Path, size_bytes: int) -> None:
    path = shm / "disk.img"
    geometry = format_image(path, size_bytes)
    assert path.stat().st_size == geometry.device_bytes == size_bytes
    # superblock twice, control, inodes, and the heads of the fixed extents
    head_pages = -(-geometry.fixed_extents * HEAD_BYTES // PAGE_BYTES)
    assert data_bytes(path) == (4 + head_pages) * PAGE_BYTES
    assert host_bytes(path) <= 64 * KIB


@pytest.mark.parametrize("size_bytes", SIZES)
def test_lost_and_found_takes_two_pages(shm: Path, size_bytes: int) -> None:
    plain, path = shm / "plain.img", shm / "disk.img"
    geometry = format_image(plain, size_bytes)
    format_image(path, size_bytes, lost_found=True)
    more_heads = geometry.fixed_extents % (PAGE_BYTES // HEAD_BYTES) == 0
    assert data_bytes(path) == data_bytes(plain) + (2 + more_heads) * PAGE_BYTES
    validate_image(path)


def test_mkfs_of_terabytes_stores_the_same_but_for_fixed_heads(shm: Path) -> None:
    stored = {}
    for size_bytes in SIZES:
        path = shm / f"{size_bytes}.img"
        geometry = format_image(path, size_bytes)
        stored[size_bytes] = data_bytes(path) - geometry.fixed_extents * HEAD_BYTES
    assert max(stored.values()) - min(stored.values()) < 2 * PAGE_BYTES


@pytest.mark.parametrize("size_bytes", SIZES)
def test_an_image_of_any_size_works(shm: Path, size_bytes: int) -> None:
    path = shm / "disk.img"
    format_image(path, size_bytes)
    with Volume.open(path) as volume:
        ino = volume.create(1, b"file", 0o100644).ino
        volume.write(ino, 0, b"content")
        free = volume.statfs().free_pages
    with Volume.open(path) as volume:
        assert b"".join(volume.read(ino, 0, 99)) == b"content"
        assert volume.statfs().free_pages == free
    validate_image(path)


def test_mounting_a_huge_empty_image_touches_only_heads_that_exist(shm: Path) -> None:
    """The head table of 16 TiB is 512 MiB; a mount makes none of it exist."""
    path = shm / "disk.img"
    geometry = format_image(path, 16 * TIB)
    assert geometry.head_table_bytes == 512 * MIB
    exists = data_bytes(path)
    volume = Volume.open(path)
    ranges = list(volume.image.iter_head_ranges())
    counters = volume.device.counters
    heads_read = sum(stop - first for first, stop in ranges)
    assert heads_read * HEAD_BYTES <= -(-geometry.fixed_extents * HEAD_BYTES // 4096) * 4096
    assert counters.stores <= 8
    assert counters.backs == 4  # superblocks and journal, heads, inodes, reserve
    assert host_bytes(path) <= 4 * 2 * MIB + 64 * KIB
    volume.close()
    assert data_bytes(path) <= exists + 4 * PAGE_BYTES
    assert volume.device.counters.stores <= 12


def test_the_cost_of_a_mount_grows_with_extents_used_not_with_files(shm: Path) -> None:
    path = shm / "disk.img"
    format_image(path, TIB)
    with Volume.open(path) as volume:
        for number in range(2000):
            volume.create(1, b"%d" % number, 0o100644)
    with Volume.open(path) as volume:
        assert volume.device.counters.stores <= 8
        assert volume.inodes._cache.keys() <= {1}
        heads_read = sum(stop - first for first, stop in volume.image.iter_head_ranges())
        # the table is backed by 2 MiB, the heads of 64 GiB; so much of its 32 MiB exists now
        assert heads_read <= 2 * MIB // HEAD_BYTES


def test_the_smallest_image_says_what_is_fixed(image_dir: Path) -> None:
    path = image_dir / "disk.img"
    geometry = format_image(path, 64 * MIB)
    assert geometry.n_extents == 32
    assert geometry.fixed_extents <= 5
    with Volume.open(path) as volume:
        status = volume.statfs()
        assert status.pages == 32 * 512
        assert status.pages - status.free_pages == geometry.fixed_extents * 512


def test_a_size_is_rounded_down_to_extents(image_dir: Path) -> None:
    path = image_dir / "disk.img"
    assert format_image(path, 67 * MIB + 5).device_bytes == 66 * MIB
    assert path.stat().st_size == 66 * MIB


def test_an_image_is_private_to_its_owner(image_dir: Path) -> None:
    path = image_dir / "disk.img"
    format_image(path, 64 * MIB)
    assert path.stat().st_mode & 0o7777 == 0o600


# -- what cannot be ------------------------------------------------------------------------------


def test_too_small(image_dir: Path) -> None:
    path = image_dir / "disk.img"
    with pytest.raises(PmemfsError, match=r"63 MiB is too small.* 64 MiB"):
        format_image(path, 63 * MIB)
    assert not path.exists()


def test_the_hosts_limit_is_named(image_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ext4, which refuses a file of 16 TiB: one page less, so 2 MiB less here."""
    path = image_dir / "disk.img"
    limit = 16 * TIB - PAGE_BYTES
    real = os.ftruncate

    def refusing(fd: int, length: int) -> None:
        if length > limit:
            raise OSError(errno.EFBIG, "File too large")
        real(fd, length)

    monkeypatch.setattr(os, "ftruncate", refusing)
    with pytest.raises(PmemfsError) as caught:
        format_image(path, 16 * TIB)
    assert caught.value.errno == errno.EFBIG
    largest = (16 * TIB >> 20) - 2
    assert "refuses a file of 16 TiB" in str(caught.value)
    assert f"the largest image it allows here is {largest}M" in str(caught.value)
    assert not path.exists()
    if str(image_dir).startswith("/dev/shm"):
        assert format_image(path, largest << 20) == Geometry(largest // 2)


def test_a_full_host_leaves_no_file(image_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image_dir / "disk.img"

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(PmemfsError, match="No space left on device") as caught:
        format_image(path, 64 * MIB)
    assert caught.value.errno == errno.ENOSPC
    assert not path.exists()


def test_nothing_is_overwritten_unless_asked(image_dir: Path) -> None:
    path = image_dir / "disk.img"
    path.write_bytes(b"precious")
    with pytest.raises(PmemfsError, match="exists; --force") as caught:
        format_image(path, 64 * MIB)
    assert caught.value.errno == errno.EEXIST
    assert path.read_bytes() == b"precious"
    format_image(path, 64 * MIB, force=True)
    validate_image(path)


def test_force_makes_a_fresh_image_of_a_used_one(image_dir: Path) -> None:
    path = image_dir / "disk.img"
    format_image(path, 64 * MIB)
    with Volume.open(path) as volume:
        volume.write(volume.create(1, b"file", 0o100644).ino, 0, b"x" * 20 * MIB)
    format_image(path, 64 * MIB, force=True)
    assert host_bytes(path) <= 64 * KIB
    with Volume.open(path) as volume:
        assert volume.was_clean
        assert [entry.name for entry in volume.readdir(1)] == [b".", b".."]


def test_an_image_in_use_is_left_alone(image_dir: Path) -> None:
    path = image_dir / "disk.img"
    format_image(path, 64 * MIB)
    with Volume.open(path) as volume:
        volume.create(1, b"file", 0o100644)
        with pytest.raises(ImageBusyError, match="in use"):
            format_image(path, 64 * MIB, force=True)
        assert volume.lookup(1, b"file").is_file
    validate_image(path)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: path.mkdir(), errno.EISDIR),
        (lambda path: path.symlink_to("/dev/null"), errno.EINVAL),
    ],
)
def test_what_is_no_regular_file(image_dir: Path, make, code: int) -> None:
    path = image_dir / "disk.img"
    make(path)
    with pytest.raises(PmemfsError) as caught:
        format_image(path, 64 * MIB, force=True)
    assert caught.value.errno == code


def test_a_missing_directory(image_dir: Path) -> None:
    with pytest.raises(PmemfsError, match="cannot make") as caught:
        format_image(image_dir / "no" / "disk.img", 64 * MIB)
    assert caught.value.errno == errno.ENOENT


def test_labels(image_dir: Path) -> None:
    path = image_dir / "disk.img"
    with pytest.raises(PmemfsError, match="at most 64 bytes"):
        format_image(path, 64 * MIB, label="ü" * 33)
    assert not path.exists()
    format_image(path, 64 * MIB, label="ü" * 32)
    with Volume.open(path) as volume:
        assert volume.image.superblock["label"].decode() == "ü" * 32
