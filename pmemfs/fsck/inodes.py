"""Check the inode chunks and keep what the later passes need of every inode.

Two things stand here: `InodeTable`, compact arrays over all inodes of valid chunks, and the
checks of what one inode or one chunk says on its own: checksums, counts, the free chain, fields.
What an inode points to is for `maps`, `directories`, `xattrs` and `links`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.heads import ExtentTable, Tick
from pmemfs.fsck.host import read_present
from pmemfs.fsck.report import Finding
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    INODE_BYTES,
    INODE_CHUNK_SHIFT,
    INODES_PER_EXTENT,
    ROOT_INO,
    extent_to_offset,
    ino_to_chunk,
    inode_offset,
)
from pmemfs.layout.records import INODE, Kind
from pmemfs.layout.words import INO_MASK

MAX_CHUNKS = (INO_MASK + 1) // INODES_PER_EXTENT
UNKNOWN_TYPE = 255

FIFO, CHARACTER, DIRECTORY, BLOCK, REGULAR, SYMLINK, SOCKET = 1, 2, 4, 6, 8, 10, 12
TYPES = (FIFO, CHARACTER, DIRECTORY, BLOCK, REGULAR, SYMLINK, SOCKET)


@dataclass
class Chunk:
    """One inode chunk and what its head says of it."""

    index: int
    extent: int
    used: int
    free_first: int
    frontier: int
    head_offset: int

    @property
    def first_ino(self) -> int:
        """Number of the first inode."""
        return self.index << INODE_CHUNK_SHIFT

    @property
    def stop(self) -> int:
        """How many records may be read: the frontier, kept within the chunk."""
        return min(self.frontier, INODES_PER_EXTENT)

    @property
    def first_place(self) -> int:
        """The first place that holds an inode: inode 0 is none."""
        return 1 if self.index == 0 else 0

    def offset_of(self, place: int) -> int:
        """Byte offset of the inode at a place of the chunk."""
        return inode_offset(self.extent, place)

    def read(self, image: Image) -> NDArray[Any]:
        """Return the records below the frontier; holes of the host read as zeros."""
        data = read_present(image.device, extent_to_offset(self.extent), self.stop * INODE_BYTES)
        return np.frombuffer(data, INODE.dtype)


class InodeTable:
    """What is known of every inode, in arrays over *slots*: row of the chunk × 8192 + place.

    ``type`` is 0 where there is no inode. ``links`` and ``parent`` are what directories say;
    ``subdirectories`` counts by parent. ``listed`` marks the orphan list.
    """

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks
        self._row = np.full(MAX_CHUNKS, -1, np.int32)
        for row, chunk in enumerate(chunks):
            self._row[chunk.index] = row
        n_slots = len(chunks) * INODES_PER_EXTENT
        self.type = np.zeros(n_slots, np.uint8)
        self.nlink = np.zeros(n_slots, np.uint32)
        self.links = np.zeros(n_slots, np.uint32)
        self.parent = np.zeros(n_slots, np.uint32)
        self.listed = np.zeros(n_slots, np.bool_)

    def slot(self, ino: int) -> int:
        """Return the slot of an inode number, or -1 where no chunk has it."""
        if not 0 < ino <= INO_MASK:
            return -1
        row = int(self._row[ino_to_chunk(ino)])
        return -1 if row < 0 else row * INODES_PER_EXTENT + ino % INODES_PER_EXTENT

    def slots(self, inos: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return the slots of inode numbers, -1 where no chunk has them."""
        numbers = inos.astype(np.int64)
        rows = self._row[numbers >> INODE_CHUNK_SHIFT].astype(np.int64)
        slots = rows * INODES_PER_EXTENT + numbers % INODES_PER_EXTENT
        return np.where((rows < 0) | (numbers == 0), -1, slots)

    def ino(self, slot: int) -> int:
        """Return the inode number of a slot."""
        chunk = self.chunks[slot // INODES_PER_EXTENT]
        return chunk.first_ino + slot % INODES_PER_EXTENT

    def offset(self, ino: int) -> int:
        """Return the byte offset of an inode that has a slot."""
        return inode_offset(self.chunks[self.slot(ino) // INODES_PER_EXTENT].extent, ino)

    def rows_of(self, row: int) -> slice:
        """Return the slots of a chunk, given its row, up to its frontier."""
        first = row * INODES_PER_EXTENT
        return slice(first, first + self.chunks[row].stop)

    def exists(self, ino: int) -> bool:
        """Tell whether an inode number has a mode."""
        slot = self.slot(ino)
        return slot >= 0 and bool(self.type[slot])


def find_chunks(image: Image, extents: ExtentTable, chunks: list[Chunk]) -> Iterator[Finding]:
    """Yield chunks whose number cannot be or is taken; append the others to ``chunks``."""
    seen: set[int] = set()
    for extent in extents.of_kind(Kind.INODES).tolist():
        offset = image.geometry.head_offset(extent)
        head = image.heads[extent]
        index = int(head["index"])
        if index >= MAX_CHUNKS or index in seen:
            why = "has a number beyond the last" if index >= MAX_CHUNKS else "exists already"
            message = f"inode chunk {index} in extent {extent} {why}"
            yield Finding("chunk-index", message, offset, extent)
            continue
        if (index == 0) != (extent == image.geometry.first_inode_extent):
            message = f"extent {extent} holds inode chunk {index}: chunk 0 is not in its place"
            yield Finding("chunk-index", message, offset, extent)
        seen.add(index)
        used, first, frontier = (int(head[name]) for name in ("used", "free_first", "frontier"))
        chunks.append(Chunk(index, extent, used, first, frontier, offset))


def check_inodes(image: Image, inodes: InodeTable, tick: Tick) -> Iterator[Finding]:
    """Yield findings about each chunk and inode on its own, and fill the table."""
    for row, chunk in enumerate(inodes.chunks):
        tick(row, len(inodes.chunks))
        records = chunk.read(image)
        _remember(inodes, row, records)
        yield from _check_frontier(image, chunk)
        yield from _check_sums(chunk, records)
        yield from _check_used(chunk, records)
        yield from _check_chain(chunk, records)
    if inodes.slot(ROOT_INO) < 0 or inodes.type[inodes.slot(ROOT_INO)] != DIRECTORY:
        yield Finding("root-missing", "inode 1, the root, is not a directory", None, ROOT_INO)


def _remember(inodes: InodeTable, row: int, records: NDArray[Any]) -> None:
    slots = inodes.rows_of(row)
    mode = records["mode"]
    types = np.minimum(mode >> 12, UNKNOWN_TYPE).astype(np.uint8)
    types[~np.isin(types, TYPES)] = UNKNOWN_TYPE
    types[mode == 0] = 0
    types[: inodes.chunks[row].first_place] = 0
    inodes.type[slots] = types
    inodes.nlink[slots] = np.where(types != 0, records["nlink"], 0)


def _check_frontier(image: Image, chunk: Chunk) -> Iterator[Finding]:
    if chunk.frontier > INODES_PER_EXTENT:
        message = f"inode chunk {chunk.index} says that {chunk.frontier} of its inodes were used"
        yield Finding("chunk-frontier", message, chunk.head_offset, chunk.extent)
    tail = chunk.stop * INODE_BYTES
    offset = extent_to_offset(chunk.extent) + tail
    data = read_present(image.device, offset, EXTENT_BYTES - tail)
    for place in np.flatnonzero(np.frombuffer(data, "<u8")).tolist()[:1]:
        ino = chunk.first_ino + chunk.stop + place * 8 // INODE_BYTES
        message = f"inode {ino} was never used (frontier {chunk.frontier}), but is not zero"
        yield Finding("chunk-frontier", message, offset + place * 8, chunk.extent)


def _check_sums(chunk: Chunk, records: NDArray[Any]) -> Iterator[Finding]:
    raw = records.tobytes()
    sums = records["checksum"].tolist()
    summed_bytes = INODE.offset_of["checksum"]
    for place in range(chunk.first_place, len(records)):
        begin = place * INODE_BYTES
        if zlib.crc32(raw[begin : begin + summed_bytes]) != sums[place]:
            ino = chunk.first_ino + place
            message = f"inode {ino} has a wrong checksum"
            yield Finding("inode-checksum", message, chunk.offset_of(place), ino)


def _check_used(chunk: Chunk, records: NDArray[Any]) -> Iterator[Finding]:
    used = int(np.count_nonzero(records["mode"][chunk.first_place :]))
    if used != chunk.used:
        message = f"inode chunk {chunk.index} counts {chunk.used} inodes in use, it has {used}"
        yield Finding("chunk-used", message, chunk.head_offset, chunk.extent)
    if chunk.index == 0 and records[:1].view(np.uint8).any():
        yield Finding("inode-zero", "inode 0 is not zero", chunk.offset_of(0), 0)


def _check_chain(chunk: Chunk, records: NDArray[Any]) -> Iterator[Finding]:
    """Yield a finding if the free chain is not exactly the freed inodes."""
    freed = records["mode"] == 0
    freed[: chunk.first_place] = False
    left = freed.tolist()
    following = records["next"].tolist()
    ino, where, length = chunk.free_first, chunk.head_offset, 0
    while ino:
        place = ino - chunk.first_ino
        if not 0 <= place < len(left) or not left[place]:
            again = 0 <= place < len(left) and bool(freed[place])
            why = "comes back to" if again else "leads to"
            message = f"the free chain of inode chunk {chunk.index} {why} inode {ino}"
            message += "" if again else ", which is not free"
            yield Finding("chunk-chain", message, where, chunk.extent)
            return
        left[place] = False
        ino, where, length = following[place], chunk.offset_of(place), length + 1
    missing = int(np.count_nonzero(freed)) - length
    if missing:
        message = f"{missing} freed inodes of chunk {chunk.index} are not in its free chain"
        yield Finding("chunk-chain", message, chunk.head_offset, chunk.extent)


def check_orphan_list(image: Image, inodes: InodeTable, report_orphan: Tick) -> Iterator[Finding]:
    """Yield breaks of the orphan list; mark the inodes that stand on it."""
    ino, where, length = int(image.control()["orphan_first"]), None, 0
    while ino:
        slot = inodes.slot(ino)
        if slot < 0 or not inodes.type[slot]:
            message = f"the orphan list leads to inode {ino}, which does not exist"
            yield Finding("orphan-list", message, where)
            return
        if inodes.listed[slot]:
            yield Finding("orphan-list", f"the orphan list comes back to inode {ino}", where)
            return
        inodes.listed[slot] = True
        length += 1
        report_orphan(length, 0)
        if inodes.nlink[slot] and inodes.type[slot] != REGULAR:
            message = f"inode {ino} has names and is no file, but stands on the orphan list"
            yield Finding("orphan-list", message, inodes.offset(ino))
        where = inodes.offset(ino)
        ino = INODE.unpack(image.device.view, where)["next"]
