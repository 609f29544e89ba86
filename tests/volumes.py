"""Volumes for tests: a manual clock, a host that can be full, and the invariants of the design.

`validate_volume` holds an open volume against invariants 1 to 3 and against its own device; it
knows the engine's insides. `validate_image` runs fsck, which does not.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from pmemfs.device import MappedDevice
from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.fsck import check
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    INODE_BYTES,
    PAGE_SHIFT,
    PAGES_PER_EXTENT,
    extent_to_offset,
)
from pmemfs.layout.records import HEAD, Kind, PageFlag
from pmemfs.units import MIB

REGULAR = 0o100644
SMALLEST_BYTES = 64 * MIB
START_S = 1_800_000_000


class ManualClock:
    """Time that only moves when a test says so."""

    def __init__(self, now_ns: int = START_S * 10**9) -> None:
        self.ns = now_ns

    def now_ns(self) -> int:
        """Wall-clock time in ns."""
        return self.ns

    def now_s(self) -> int:
        """Wall-clock time in s."""
        return self.ns // 10**9

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.ns += int(seconds * 10**9)


class HostDevice(MappedDevice):
    """A device on a host whose free space the test rules: ``full`` refuses what is not backed.

    What was backed stays so until it is discarded, also when the image is opened again, as on a
    real host. ``refused`` counts the refusals.
    """

    full = False
    refused = 0
    _units: dict[tuple[int, int], set[int]] = {}  # noqa: RUF012

    def __init__(self, fd: int, size_bytes: int, **options: Any) -> None:
        super().__init__(fd, size_bytes, **options)
        status = os.fstat(fd)
        self._on_host = self._units.setdefault((status.st_dev, status.st_ino), set())

    def _back_unit(self, unit: int, low: int, high: int) -> None:
        if HostDevice.full and unit not in self._on_host:
            HostDevice.refused += 1
            raise PmemfsError(errno.ENOSPC, "the host is full", unit * EXTENT_BYTES)
        self._on_host.add(unit)
        super()._back_unit(unit, low, high)

    def discard(self, offset: int, length: int) -> None:
        """Discard, and forget that the units were backed."""
        super().discard(offset, length)
        units = range(offset // EXTENT_BYTES, -(-(offset + length) // EXTENT_BYTES))
        self._on_host.difference_update(units)


class VolumeBed:
    """Makes and reopens volumes in one directory, and checks them all at the end."""

    def __init__(self, image_dir: Path, clock: ManualClock, *, keep_dir: Path) -> None:
        self.image_dir = image_dir
        self.clock = clock
        self.keep_dir = keep_dir
        self._open: list[Volume] = []
        self._paths: list[Path] = []

    def make(
        self,
        size_bytes: int = SMALLEST_BYTES,
        *,
        device_class: type[MappedDevice] = MappedDevice,
        **options: Any,
    ) -> Volume:
        """Make an image and open it; ``options`` are those of `Options`."""
        path = self.image_dir / f"disk{len(self._paths)}.img"
        Volume.format(path, size_bytes)
        self._paths.append(path)
        return self.open(path, device_class=device_class, **options)

    def open(
        self, path: Path, *, device_class: type[MappedDevice] = MappedDevice, **options: Any
    ) -> Volume:
        """Open an image that this bed will close."""
        options.setdefault("clock", self.clock)
        volume = Volume.open(path, Options(**options), device_class=device_class)
        self._open.append(volume)
        return volume

    def reopen(self, volume: Volume, *, crash: bool = False) -> Volume:
        """Close a volume (or abandon it, as a killed daemon does) and open its image again."""
        path, options = Path(volume.image.name), volume.options
        device_class = type(volume.device)
        if crash:
            volume.abandon()
        else:
            volume.close()
            validate_image(path)
        self._open.remove(volume)
        volume = Volume.open(path, options, device_class=device_class)
        self._open.append(volume)
        return volume

    def finish(self) -> None:
        """Close every volume; check every image with fsck, and keep one that is damaged."""
        HostDevice.full = False
        try:
            for volume in self._open:
                if volume.image.fd >= 0:
                    validate_volume(volume)
                    volume.close()
            for path in self._paths:
                validate_image(path)
        except BaseException:
            for path in self._paths:
                subprocess.run(["cp", "--sparse=always", path, self.keep_dir], check=False)
            raise


def findings_of(path: Path | str) -> list[str]:
    """Return what fsck finds in an image, which may be open."""
    image = Image.open(path, lock="none")
    try:
        return [str(finding) for finding in check(image).findings]
    finally:
        image.close()


def validate_image(path: Path | str) -> None:
    """Assert that fsck finds nothing."""
    findings = findings_of(path)
    assert not findings, "\n".join([f"fsck of {path}:", *findings])


def idle(volume: Volume, *, discard: bool = True) -> None:
    """Do all idle work there is, as after a long time without requests."""
    while (orphan := volume.orphans.workable()) is not None:
        volume.orphans.work(orphan)
    assert volume.tables is not None
    while (coldest := volume.tables.coldest()) is not None:
        volume.tables.unsplit(coldest[0])
    while volume.release_idle():
        pass
    while discard and volume.pool.discard_returned(16):
        pass


def remove_tree(volume: Volume, ino: int = ROOT_INO) -> None:
    """Remove everything below a directory, and its attributes."""
    for name in volume.listxattr(ino):
        volume.removexattr(ino, name)
    for entry in list(volume.readdir(ino)):
        if entry.name in (b".", b".."):
            continue
        if volume.inode(entry.ino).is_dir:
            remove_tree(volume, entry.ino)
            volume.rmdir(ino, entry.name)
        else:
            volume.unlink(ino, entry.name)


def validate_empty(volume: Volume) -> None:
    """Assert invariant 4 of the design: nothing but the fixed extents is in use, no descriptor."""
    fixed = volume.geometry.fixed_extents
    counts = volume.pool.counts
    assert counts[Kind.FREE] == volume.geometry.n_extents - fixed, counts
    assert volume.pool.free_pages == counts[Kind.FREE] * PAGES_PER_EXTENT
    assert volume.tables is not None
    assert volume.tables.split_extents == 0
    assert volume.inodes.in_use == 1
    assert volume.inode(ROOT_INO).entries == 0
    assert volume.inode(ROOT_INO).words[0] == 0
    for extent in range(fixed, volume.geometry.n_extents):
        head = head_of(volume, extent)
        assert not any(head[name] for name in ("kind", "used", "owner", "index", "checksum"))


def head_of(volume: Volume, extent: int) -> dict[str, Any]:
    """Return the head descriptor of an extent as the device has it."""
    return HEAD.unpack(volume.device.view, volume.geometry.head_offset(extent))


def validate_volume(volume: Volume) -> None:
    """Assert what must hold between the memory of an open volume and its device."""
    heads = np.frombuffer(
        bytes(volume.device.view[EXTENT_BYTES : EXTENT_BYTES + volume.geometry.n_extents * 64]),
        HEAD.dtype,
    )
    _validate_pool(volume, heads)
    _validate_split_tables(volume, heads)
    _validate_inodes(volume, heads)


def _validate_pool(volume: Volume, heads: np.ndarray) -> None:
    pool, geometry = volume.pool, volume.geometry
    kinds = np.array([pool.kind(e) for e in range(geometry.n_extents)])
    assert sum(pool.counts) == geometry.n_extents  # invariant 3
    assert np.bincount(kinds, minlength=len(Kind)).tolist() == pool.counts
    descriptors = set() if volume.tables is None else set(volume.tables._slots.extents)
    for extent, kind in enumerate(kinds.tolist()):
        on_device = int(heads["kind"][extent])
        if kind == Kind.RETURNED:  # by an aborted take, or left by another mount
            assert on_device in (Kind.RETURNED, Kind.FREE, Kind.DESCRIPTOR), extent
        else:
            assert on_device == kind, extent
        if volume.tables is not None:
            assert (kind == Kind.DESCRIPTOR) == (extent in descriptors), extent
        assert pool.used(extent) == heads["used"][extent], extent
        if kind in (Kind.SMALL, Kind.METADATA):
            _validate_open(volume, extent, kind)
        elif kind == Kind.FREE:
            _validate_zeros(volume, extent)
    small = np.flatnonzero(kinds == Kind.SMALL)
    free_small = sum(511 - pool.used(extent) for extent in small.tolist())
    assert pool.free_small_pages == free_small
    for kind, column in pool._open_columns.items():
        assert np.count_nonzero(column) == pool._open_counts[kind]


def _validate_open(volume: Volume, extent: int, kind: int) -> None:
    pool = volume.pool
    start = extent_to_offset(extent)
    words = np.frombuffer(bytes(volume.device.view[start : start + 4096]), "<u8")
    assert words[0] == 0
    assert np.count_nonzero(words) == pool.used(extent), extent
    is_open = pool.used(extent) < 511 and not pool.is_owned(extent)
    expected = pool.used(extent) + 1 if is_open else 0
    assert pool._open_columns[Kind(kind)][extent] == expected, extent


def _validate_zeros(volume: Volume, extent: int) -> None:
    start = extent_to_offset(extent)
    for low, high in volume.device.iter_data(start, start + EXTENT_BYTES):
        assert not any(bytes(volume.device.view[low:high]).strip(b"\0")), extent


def _validate_split_tables(volume: Volume, heads: np.ndarray) -> None:
    """Invariant 2, and that descriptors are those of their pages."""
    tables = volume.tables
    if tables is None:
        return
    generation = volume.image.control()["generation"]
    flagged = (heads["generation"] == generation) & (heads["table"] & int(PageFlag.SPLIT) != 0)
    assert set(np.flatnonzero(flagged).tolist()) == set(tables._tables)
    offsets = set()
    for extent, table in tables._tables.items():
        assert volume.pool.kind(extent) == Kind.SMALL
        assert int(heads["table"][extent]) >> 8 == table.offset >> PAGE_SHIFT
        assert table.offset % (32 * 1024) == 0
        offsets.add(table.offset)
        start = extent_to_offset(extent)
        owners = np.frombuffer(bytes(volume.device.view[start : start + 4096]), "<u8")
        described = tables._read_table(table)[:, 0].copy()
        assert not (described[described != owners]).any(), extent
        dirty = bool((tables._read_table(table)[:, 1] & np.uint64(PageFlag.DIRTY)).any())
        assert dirty <= table.dirty
    assert len(offsets) == len(tables._tables)


def _validate_inodes(volume: Volume, heads: np.ndarray) -> None:
    inodes = volume.inodes
    chunks = np.flatnonzero(heads["kind"] == Kind.INODES)
    assert inodes.in_use == int(heads["used"][chunks].sum())
    for ino, inode in inodes._cache.items():
        record = bytes(volume.device.view[inode.offset : inode.offset + INODE_BYTES])
        assert inode.encode() == record, ino
    if not volume.options.read_only:
        assert set(volume.orphans._before) >= {
            ino for ino, inode in inodes._cache.items() if not inode.nlink
        }
