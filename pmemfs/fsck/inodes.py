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

from pmemfs.errors import InvariantError
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
    WORD_BYTES,
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
    """One inode chunk and what its head says of it.

    ``stop`` is how many records are looked at: behind the last one below the frontier that is not
    zero. No inode that was ever used is zero, so nothing is missed, and a head that claims inodes
    which the host holds no data of costs nothing.
    """

    index: int
    extent: int
    used: int
    free_first: int
    frontier: int
    head_offset: int
    stop: int

    @property
    def first_ino(self) -> int:
        """Number of the first inode."""
        return self.index << INODE_CHUNK_SHIFT

    @property
    def claimed(self) -> int:
        """How many records there should be: the frontier, kept within the chunk."""
        return min(self.frontier, INODES_PER_EXTENT)

    @property
    def first_place(self) -> int:
        """The first place that holds an inode: inode 0 is none."""
        return 1 if self.index == 0 else 0

    def offset_of(self, place: int) -> int:
        """Byte offset of the inode at a place of the chunk."""
        return inode_offset(self.extent, place)

    def read(self, image: Image) -> NDArray[Any]:
        """Return the first ``stop`` records; holes of the host read as zeros."""
        data = read_present(image.device, extent_to_offset(self.extent), self.stop * INODE_BYTES)
        return np.frombuffer(data, INODE.dtype)


class InodeTable:
    """What is known of every inode, in arrays over *slots*: the records of one chunk after another.

    ``type`` is 0 where there is no inode. ``links`` and ``parent`` are what directories say;
    ``subdirectories`` counts by parent. ``listed`` marks the orphan list.
    """

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks
        self._row = np.full(MAX_CHUNKS, -1, np.int32)
        for row, chunk in enumerate(chunks):
            self._row[chunk.index] = row
        self._stop = np.array([chunk.stop for chunk in chunks] or [0], np.int64)
        self._first = np.cumsum(self._stop) - self._stop
        n_slots = int(self._stop.sum())
        self.type = np.zeros(n_slots, np.uint8)
        self.nlink = np.zeros(n_slots, np.uint32)
        self.links = np.zeros(n_slots, np.uint32)
        self.parent = np.zeros(n_slots, np.uint32)
        self.listed = np.zeros(n_slots, np.bool_)

    def chunk_of(self, ino: int) -> Chunk | None:
        """Return the chunk that has an inode number, or None."""
        row = int(self._row[ino_to_chunk(ino)]) if 0 < ino <= INO_MASK else -1
        return None if row < 0 else self.chunks[row]

    def slot(self, ino: int) -> int:
        """Return the slot of an inode number, or -1 where no chunk has a record of it."""
        chunk, place = self.chunk_of(ino), ino % INODES_PER_EXTENT
        if chunk is None or place >= chunk.stop:
            return -1
        return int(self._first[self._row[chunk.index]]) + place

    def slots(self, inos: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return the slots of inode numbers, -1 where no chunk has a record of them."""
        numbers = inos.astype(np.int64)
        rows = self._row[numbers >> INODE_CHUNK_SHIFT].astype(np.int64)
        places = numbers % INODES_PER_EXTENT
        missing = (rows < 0) | (numbers == 0) | (places >= self._stop[rows])
        return np.where(missing, -1, self._first[rows] + places)

    def ino(self, slot: int) -> int:
        """Return the inode number of a slot."""
        row = int(np.searchsorted(self._first, slot, "right")) - 1
        return self.chunks[row].first_ino + slot - int(self._first[row])

    def offset(self, ino: int) -> int:
        """Return the byte offset of an inode that a chunk has."""
        chunk = self.chunk_of(ino)
        if chunk is None:
            raise InvariantError(f"no chunk has inode {ino}")
        return inode_offset(chunk.extent, ino)

    def rows_of(self, row: int) -> slice:
        """Return the slots of a chunk, given its row."""
        first = int(self._first[row])
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
        stop = _end_of_records(image, extent, min(frontier, INODES_PER_EXTENT))
        chunks.append(Chunk(index, extent, used, first, frontier, offset, stop))


def _end_of_records(image: Image, extent: int, claimed: int) -> int:
    """Return the place behind the last of the first records that is not zero."""
    start = extent_to_offset(extent)
    ranges = list(image.device.iter_data(start, start + claimed * INODE_BYTES))
    for low, high in reversed(ranges):
        words = np.flatnonzero(np.frombuffer(image.device.view[low:high], "<u8"))
        if len(words):
            return (low - start + int(words[-1]) * WORD_BYTES) // INODE_BYTES + 1
    return 0


def check_inodes(image: Image, inodes: InodeTable, tick: Tick) -> Iterator[Finding]:
    """Yield findings about each chunk and inode on its own, and fill the table."""
    for row, chunk in enumerate(inodes.chunks):
        tick(row, len(inodes.chunks))
        records = chunk.read(image)
        _remember(inodes, row, records)
        is_zero = zero_places(records)
        yield from _check_frontier(image, chunk)
        yield from _check_zeros(chunk, is_zero)
        yield from _check_sums(chunk, records, is_zero)
        yield from _check_used(chunk, records)
        yield from _check_chain(chunk, records, is_zero)
    if inodes.slot(ROOT_INO) < 0 or inodes.type[inodes.slot(ROOT_INO)] != DIRECTORY:
        yield Finding("root-missing", "inode 1, the root, is not a directory", None, ROOT_INO)


def zero_places(records: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which records are zero throughout."""
    raw = records.view(np.uint8).reshape(len(records), INODE_BYTES)
    is_zero: NDArray[np.bool_] = np.logical_not(raw.any(axis=1))
    return is_zero


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
    tail = chunk.claimed * INODE_BYTES
    offset = extent_to_offset(chunk.extent) + tail
    data = read_present(image.device, offset, EXTENT_BYTES - tail)
    for place in np.flatnonzero(np.frombuffer(data, "<u8")).tolist()[:1]:
        ino = chunk.first_ino + chunk.claimed + place * WORD_BYTES // INODE_BYTES
        message = f"inode {ino} was never used (frontier {chunk.frontier}), but is not zero"
        yield Finding("chunk-frontier", message, offset + place * WORD_BYTES, chunk.extent)


def _check_zeros(chunk: Chunk, is_zero: NDArray[np.bool_]) -> Iterator[Finding]:
    """Yield a finding for each run of inodes that are zero, below the frontier."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], is_zero.view(np.int8), [0]))))
    runs = edges.reshape(-1, 2).tolist()
    if chunk.frontier <= INODES_PER_EXTENT:  # else the frontier is what is wrong
        runs.append([chunk.stop, chunk.frontier])
    for low, stop in runs:
        low = max(low, chunk.first_place)
        if low < stop:
            inos = f"inodes {chunk.first_ino + low} to {chunk.first_ino + stop - 1}"
            message = f"{inos} are zero, though inode chunk {chunk.index} says that they were used"
            yield Finding("chunk-zeros", message, chunk.offset_of(low), chunk.extent)


def _check_sums(
    chunk: Chunk, records: NDArray[Any], is_zero: NDArray[np.bool_]
) -> Iterator[Finding]:
    raw = records.tobytes()
    sums = records["checksum"].tolist()
    summed_bytes = INODE.offset_of["checksum"]
    places = np.flatnonzero(~is_zero)
    for place in places[places >= chunk.first_place].tolist():
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


def _check_chain(
    chunk: Chunk, records: NDArray[Any], is_zero: NDArray[np.bool_]
) -> Iterator[Finding]:
    """Yield a finding if the free chain is not exactly the freed inodes.

    One that is zero may stand there: that is told already.
    """
    freed = records["mode"] == 0
    freed[: chunk.first_place] = False
    left = freed.tolist()
    following = records["next"].tolist()
    ino, where = chunk.free_first, chunk.head_offset
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
        ino, where = following[place], chunk.offset_of(place)
    missing = int(np.count_nonzero(np.array(left, np.bool_) & ~is_zero))
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
