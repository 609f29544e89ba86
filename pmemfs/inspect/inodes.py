"""Read inodes by number, through the map from chunk to extent that the heads give."""

from __future__ import annotations

import errno
import stat
from typing import Any

import numpy as np

from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.inspect.reader import Reader
from pmemfs.layout.geometry import (
    INODE_BYTES,
    PAGES_PER_EXTENT,
    SYMLINK_MAX,
    ino_to_chunk,
    inode_offset,
)
from pmemfs.layout.records import INLINE_BYTES, INODE, Kind, MapKind, Role, is_sealed
from pmemfs.layout.words import PFN_MASK

Inode = dict[str, Any]

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def type_name(mode: int) -> str:
    """Return the file type of a mode in a word."""
    return _TYPES.get(stat.S_IFMT(mode), f"unknown ({mode:#o})")


class Inodes:
    """The inodes of an image, for the length of one view.

    Cost of making it: the part of the head table that exists; of each `read`: one inode.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.chunks: dict[int, int] = {}
        for first, heads in reader.iter_heads():
            for place in np.flatnonzero(heads["kind"] == Kind.INODES).tolist():
                self._add(int(heads["index"][place]), first + place)

    def _add(self, chunk: int, extent: int) -> None:
        other = self.chunks.setdefault(chunk, extent)
        if other != extent:
            self.reader.remark(f"extents {other} and {extent} both hold inode chunk {chunk}")

    def offset(self, ino: int) -> int:
        """Return the device offset of an inode; raises `PmemfsError` where no chunk has it."""
        extent = self.chunks.get(ino_to_chunk(ino)) if ino else None
        if extent is None:
            raise PmemfsError(errno.ENOENT, f"there is no inode {ino}: no extent holds it")
        return inode_offset(extent, ino)

    def read(self, ino: int) -> Inode:
        """Return an inode in use with its number as ``ino``; a wrong checksum is remarked.

        Raises `PmemfsError` for one that is not there or free.
        """
        offset = self.offset(ino)
        data = self.reader.read(offset, INODE_BYTES)
        inode = INODE.unpack(data)
        if not inode["mode"]:
            raise PmemfsError(errno.ENOENT, f"inode {ino} is free", offset)
        if not is_sealed(INODE, data):
            self.reader.remark(f"inode {ino} has a wrong checksum (device offset {offset:#x})")
        return {"ino": ino, **inode}


def read_target(reader: Reader, inode: Inode) -> bytes:
    """Return where a symlink points to; raises `DamagedImageError` if it cannot be read."""
    size, ino = inode["size"], inode["ino"]
    if inode["map_kind"] == MapKind.INLINE and size <= INLINE_BYTES:
        start = INODE.offset_of["map"]
        body = {name: value for name, value in inode.items() if name != "ino"}
        return INODE.pack(**body)[start : start + size]
    if inode["map_kind"] != MapKind.RUNS or size > SYMLINK_MAX:
        raise DamagedImageError(f"symlink {ino} has {size} bytes in a map of another kind")
    return reader.metadata_page(inode["map"][0] & PFN_MASK, ino, Role.SYMLINK)[:size]


def piece_of(page: int) -> int:
    """Return the 2 MiB piece of a file that a page of it lies in."""
    return page // PAGES_PER_EXTENT
