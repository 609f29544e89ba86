"""What an inode must say before the engine believes it.

A right checksum says only that the record is as somebody wrote it. So every inode that is read
from the device passes `validate_inode` once, before it is cached: type, size, kind and height of
its map, and every number in it that is used as a place. What other places must confirm (owner
words, heads, leaves) is asked where they are followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmemfs.errors import DamagedImageError
from pmemfs.layout.geometry import (
    EXTENT_PAGE_SHIFT,
    MAX_DEVICE_NUMBER,
    MAX_FILE_BYTES,
    MAX_FILE_PAGES,
    PAGES_PER_EXTENT,
    SYMLINK_MAX,
    Geometry,
)
from pmemfs.layout.records import INLINE_BYTES, MapKind

if TYPE_CHECKING:
    from pmemfs.fs.inodes import Inode, Run

MAX_MAP_HEIGHT = 4
_FILE, _DIRECTORY, _SYMLINK = 0o10, 0o04, 0o12
_OTHER_TYPES = frozenset((0o01, 0o02, 0o06, 0o14))
_SLOT_MASK = PAGES_PER_EXTENT - 1


def validate_inode(inode: Inode, geometry: Geometry) -> None:
    """Raise `DamagedImageError` for an inode in use that cannot be, naming what is wrong."""
    problem = _problem(inode, geometry)
    if problem is not None:
        raise DamagedImageError(f"inode {inode.ino} {problem}; run pmemfs fsck", inode.offset)


def _problem(inode: Inode, geometry: Geometry) -> str | None:
    if inode.xattr >= geometry.n_pages or inode.pages > geometry.n_pages:
        return "has pages beyond the device"
    file_type = inode.mode >> 12
    if file_type == _FILE:
        return _file_problem(inode, geometry)
    if inode.map_height:
        return "has a map of impossible height"
    if file_type == _DIRECTORY:
        return None if inode.map_kind == MapKind.DIRECTORY else "is a directory without a map"
    if file_type == _SYMLINK:
        return _symlink_problem(inode)
    if file_type not in _OTHER_TYPES:
        return "has no type that is known"
    return "has an impossible device number" if inode.rdev > MAX_DEVICE_NUMBER else None


def _symlink_problem(inode: Inode) -> str | None:
    limits = {int(MapKind.INLINE): INLINE_BYTES, int(MapKind.RUNS): SYMLINK_MAX}
    is_right = 0 < inode.size <= limits.get(inode.map_kind, 0)
    return None if is_right else "is a symbolic link of impossible length"


def _file_problem(inode: Inode, geometry: Geometry) -> str | None:
    if inode.size > MAX_FILE_BYTES:
        return "is larger than a file can be"
    if inode.runs is None:
        is_tree = inode.map_kind == MapKind.TREE and 1 <= inode.map_height <= MAX_MAP_HEIGHT
        return None if is_tree else "has a map of impossible kind or height"
    if inode.map_height or any(_is_wrong(run, geometry) for run in inode.runs):
        return "has a run that cannot be"
    return None


def _is_wrong(run: Run, geometry: Geometry) -> bool:
    """Whether a run leaves the device, the largest file, or, of small pages, its extent."""
    index, count, pfn, whole = run
    if not count or pfn + count > geometry.n_pages or index + count > MAX_FILE_PAGES:
        return True
    if whole:
        return bool((index | count | pfn) & _SLOT_MASK)
    return pfn >> EXTENT_PAGE_SHIFT != (pfn + count - 1) >> EXTENT_PAGE_SHIFT
