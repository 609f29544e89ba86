"""Inodes: fixed records found by number, cached while they are used.

Chunk ``c`` holds inodes ``c * 8192`` onwards in one extent of kind INODES; the head of that extent
has the free chain and the frontier. Finding an inode is one dict look-up of its chunk and
arithmetic. A chunk without an inode in use is released in idle time, except chunk 0.

Invariants: a record of the device is believed after checksum and `validate_inode`; what stands in
an `Inode` object agrees with the device after every commit; `put` writes the whole sealed record
into the transaction; an aborted transaction decodes it again. An object is only dropped from the
cache between operations, so an inode has one object at a time.
``holds`` stands apart from the cache: what the kernel remembers by the million must not keep as
many objects.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np

from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError, PmemfsError, no_space
from pmemfs.fs.holds import Holds
from pmemfs.fs.validation import validate_inode
from pmemfs.image import Image
from pmemfs.journal import Transaction
from pmemfs.layout.geometry import (
    INODE_BYTES,
    INODE_CHUNK_SHIFT,
    INODES_PER_EXTENT,
    PAGE_BYTES,
    extent_to_offset,
    ino_to_chunk,
    inode_offset,
)
from pmemfs.layout.records import HEAD, INODE, MAP_WORDS, Kind, MapKind
from pmemfs.layout.words import COUNT_SHIFT, HOLE, MAX_RUN_PAGES, PFN_MASK, WHOLE
from pmemfs.pages import ExtentPool

Run = tuple[int, int, int, bool]
"""``(first page index, pages, pfn, whole)``"""

_RECORD = INODE.struct
_BODY_BYTES = INODE_BYTES - 4
_FIELD_NAMES = [field.name for field in INODE.fields]
_stored_fields = attrgetter(*_FIELD_NAMES[: _FIELD_NAMES.index("reserved0")])
_NO_FIELDS = _RECORD.unpack(bytes(INODE_BYTES))
_MAX_INO = (1 << 32) - 1
_CACHE_LIMIT = 8192
_MAX_WHOLE_RUN = MAX_RUN_PAGES & ~511


class Inode:
    """One inode in memory. Public to callers as a read-only snapshot of its attributes.

    ``dirty`` are small extents that hold stores of it not yet flushed. ``home`` is the directory
    it was made in, 0 once it has been read again: a hint for placement. ``runs`` is the list of
    runs of a map of kind RUNS, else None.
    """

    __slots__ = (
        "atime_ns",
        "btime_ns",
        "ctime_ns",
        "dirty",
        "entries",
        "flags",
        "generation",
        "gid",
        "home",
        "ino",
        "map_height",
        "map_kind",
        "mode",
        "mtime_ns",
        "next",
        "nlink",
        "offset",
        "pages",
        "parent",
        "rdev",
        "runs",
        "size",
        "uid",
        "words",
        "xattr",
    )

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    pages: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    generation: int
    rdev: int
    entries: int
    xattr: int
    flags: int
    parent: int
    next: int
    map_kind: int
    map_height: int
    words: list[int]
    runs: list[Run] | None

    def __init__(self, ino: int, offset: int) -> None:
        self.ino = ino
        self.offset = offset
        self.home = 0
        self.dirty: set[int] = set()

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.mode >> 12 == 0o04

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode >> 12 == 0o10

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode >> 12 == 0o12

    @property
    def times_ns(self) -> tuple[int, int, int]:
        """Times of the last access, data change and attribute change."""
        return self.atime_ns, self.mtime_ns, self.ctime_ns

    def clear(self) -> None:
        """Make all stored fields zero, as in a free inode."""
        self._take(_NO_FIELDS)

    def decode(self, buffer: bytes | memoryview, offset: int) -> None:
        """Take the fields from a record; the checksum is the caller's business."""
        self._take(_RECORD.unpack_from(buffer, offset))

    def _take(self, fields: tuple[Any, ...]) -> None:
        (
            self.mode,
            self.nlink,
            self.uid,
            self.gid,
            self.size,
            self.pages,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
            self.btime_ns,
            self.generation,
            self.rdev,
            self.entries,
            self.xattr,
            self.flags,
            self.parent,
            self.next,
            self.map_kind,
            self.map_height,
        ) = fields[:19]
        self.words = list(fields[20 : 20 + MAP_WORDS])
        is_list = self.is_file and self.map_kind == MapKind.RUNS
        self.runs = decode_runs(self.words) if is_list else None

    def encode(self) -> bytes:
        """Return the sealed record."""
        if self.runs is not None:
            self.words = encode_runs(self.runs)
            self.words += [0] * (MAP_WORDS - len(self.words))
        try:
            record = _RECORD.pack(*_stored_fields(self), 0, *self.words, 0, 0)[:_BODY_BYTES]
        except struct.error:  # it counted less than it had: links, entries or pages
            raise DamagedImageError(
                f"inode {self.ino} counts wrongly; run pmemfs fsck", self.offset
            ) from None
        return record + zlib.crc32(record).to_bytes(4, "little")


def decode_runs(words: list[int]) -> list[Run]:
    """Return the runs that a list of map words stands for, without the holes."""
    runs: list[Run] = []
    index = 0
    for word in words:
        if not word:
            break
        if word & HOLE:
            index += word & PFN_MASK
            continue
        count = word >> COUNT_SHIFT
        runs.append((index, count, word & PFN_MASK, bool(word & WHOLE)))
        index += count
    return runs


def encode_runs(runs: list[Run]) -> list[int]:
    """Return the map words of a list of runs; there may be more than an inode has room for."""
    words: list[int] = []
    reached = 0
    for index, count, pfn, whole in runs:
        if index > reached:
            words.append(HOLE | (index - reached))
        reached = index + count
        most = _MAX_WHOLE_RUN if whole else MAX_RUN_PAGES
        while count:
            part = min(count, most)
            words.append(pfn | (WHOLE if whole else 0) | part << COUNT_SHIFT)
            pfn += part
            count -= part
    return words


class _Chunk:
    """Where a chunk lies and what its head says."""

    __slots__ = ("extent", "free_first", "frontier", "used")

    def __init__(self, extent: int, used: int, free_first: int, frontier: int) -> None:
        self.extent = extent
        self.used = used
        self.free_first = free_first
        self.frontier = frontier


class InodeTable:
    """All inodes of a volume."""

    def __init__(self, image: Image, pool: ExtentPool) -> None:
        self._device: MappedDevice = image.device
        self._pool = pool
        self._chunks: dict[int, _Chunk] = {}
        self._open_chunks: set[int] = set()
        self._current = 0
        self._cache: dict[int, Inode] = {}
        self.holds = Holds()
        self.in_use = 0
        for chunk, extent in image.chunk_extents().items():
            self._load_chunk(chunk, extent)
        self._validate_chunks(image)
        self.in_use = sum(chunk.used for chunk in self._chunks.values())

    def _load_chunk(self, number: int, extent: int) -> None:
        head = HEAD.unpack(self._device.view, self._pool.geometry.head_offset(extent))
        if head["kind"] != Kind.INODES:  # taken by a transaction that has been aborted
            self._chunks.pop(number, None)
            self._open_chunks.discard(number)
            return
        chunk = _Chunk(extent, head["used"], head["free_first"], head["frontier"])
        self._chunks[number] = chunk
        self._note_open(number, chunk)

    def _validate_chunks(self, image: Image) -> None:
        """Refuse the image unless every extent of inodes is one chunk, within bounds."""
        n_extents = self._pool.counts[Kind.INODES]
        first = self._chunks.get(0)
        good = first is not None and first.extent == self._pool.geometry.first_inode_extent
        good = good and len(self._chunks) == n_extents
        for number, chunk in self._chunks.items():
            good = good and number <= ino_to_chunk(_MAX_INO)
            good = good and chunk.used <= chunk.frontier <= INODES_PER_EXTENT
            good = good and (not chunk.free_first or self._is_within(number, chunk.free_first))
        if not good:
            text = "the heads of the inode extents are damaged; run pmemfs fsck"
            image.refuse(DamagedImageError(text))

    def _is_within(self, number: int, ino: int) -> bool:
        """Whether an inode number lies in a chunk, below its frontier."""
        place = ino - (number << INODE_CHUNK_SHIFT)
        return 0 <= place < self._chunks[number].frontier and ino > 0

    def _note_open(self, number: int, chunk: _Chunk) -> None:
        if chunk.free_first or chunk.frontier < INODES_PER_EXTENT:
            self._open_chunks.add(number)
        else:
            self._open_chunks.discard(number)

    # -- finding -----------------------------------------------------------------------------

    def get(self, ino: int) -> Inode:
        """Return the inode; raises ENOENT for a free one and EUCLEAN for a damaged one."""
        inode = self._cache.get(ino)
        if inode is None:
            inode = self._read(ino)
            self._cache[ino] = inode
        return inode

    def _read(self, ino: int) -> Inode:
        chunk = self._chunks.get(ino_to_chunk(ino))
        if not ino or chunk is None or (ino & (INODES_PER_EXTENT - 1)) >= chunk.frontier:
            raise PmemfsError(errno.ENOENT, f"there is no inode {ino}")
        inode = Inode(ino, inode_offset(chunk.extent, ino))
        self._decode(inode)
        if not inode.mode:
            raise PmemfsError(errno.ENOENT, f"inode {ino} is free")
        return inode

    def _decode(self, inode: Inode) -> None:
        offset = inode.offset
        record = bytes(self._device.view[offset : offset + INODE_BYTES])
        if zlib.crc32(record[:_BODY_BYTES]) != int.from_bytes(record[_BODY_BYTES:], "little"):
            raise DamagedImageError(f"inode {inode.ino} has a wrong checksum", offset)
        inode.decode(record, 0)
        if inode.mode:
            validate_inode(inode, self._pool.geometry)

    def trim(self, is_dirty: Callable[[int], bool]) -> None:
        """Drop the oldest cached inodes, down to half the limit.

        ``is_dirty`` tells whether an extent still has pages to flush. Only between operations:
        an operation relies on one object per inode.
        """
        if len(self._cache) <= _CACHE_LIMIT:
            return
        surplus = len(self._cache) - _CACHE_LIMIT // 2
        for ino, inode in list(self._cache.items()):
            if not any(is_dirty(extent) for extent in inode.dirty):
                del self._cache[ino]
                surplus -= 1
                if not surplus:
                    break

    # -- changing ----------------------------------------------------------------------------

    def put(self, tx: Transaction, inode: Inode) -> None:
        """Write the whole inode with the transaction, which made it or has it guarded."""
        tx.put(inode.offset, inode.encode())

    def guard(self, tx: Transaction, inode: Inode) -> None:
        """Say that the inode is about to change in memory: an abort decodes it again."""
        tx.undo.append(lambda: self._reload(inode))

    def _reload(self, inode: Inode) -> None:
        if self._cache.get(inode.ino) is not inode:
            return
        record = self._device.view[inode.offset : inode.offset + INODE_BYTES]
        if int.from_bytes(record[:4], "little"):
            inode.decode(record, 0)
        else:  # the mode is 0: the aborted transaction was about to make this inode
            del self._cache[inode.ino]

    def allocate(self, tx: Transaction, generation: int) -> Inode:
        """Allocate an inode with all fields zero but ``generation``; the caller puts it.

        Raises `PmemfsError` with ENOSPC.
        """
        number, chunk = self._open_chunk(tx)
        tx.undo.append(lambda: self._load_chunk(number, chunk.extent))
        if chunk.free_first:
            ino = chunk.free_first
            freed = Inode(ino, inode_offset(chunk.extent, ino))
            self._decode(freed)
            is_free = not freed.mode and freed.next != ino
            if not is_free or (freed.next and not self._is_within(number, freed.next)):
                raise DamagedImageError(
                    f"the chain of free inodes leads to inode {ino}, which is not free; "
                    "run pmemfs fsck",
                    freed.offset,
                )
            chunk.free_first = freed.next
        else:
            ino = (number << INODE_CHUNK_SHIFT) + chunk.frontier
            chunk.frontier += 1
        chunk.used += 1
        self.in_use += 1
        tx.undo.append(self._uncount)
        self._put_chunk(tx, number, chunk)
        inode = Inode(ino, inode_offset(chunk.extent, ino))
        inode.clear()
        inode.generation = generation
        self._cache[ino] = inode
        tx.undo.append(lambda: self._cache.pop(ino, None))
        return inode

    def _uncount(self) -> None:
        self.in_use -= 1

    def _open_chunk(self, tx: Transaction) -> tuple[int, _Chunk]:
        if self._open_chunks:
            if self._current not in self._open_chunks:
                self._current = min(self._open_chunks)
            return self._current, self._chunks[self._current]
        number = next(n for n in range(len(self._chunks) + 1) if n not in self._chunks)
        if number > ino_to_chunk(_MAX_INO):
            raise no_space("all inode numbers are in use")
        extent = self._pool.take(tx, Kind.INODES, index=number)
        chunk = _Chunk(extent, 0, 0, 0)
        self._chunks[number] = chunk
        return number, chunk

    def _put_chunk(self, tx: Transaction, number: int, chunk: _Chunk) -> None:
        if not 0 <= chunk.used <= chunk.frontier:
            raise DamagedImageError(
                f"inode chunk {number} counts its inodes wrongly; run pmemfs fsck",
                self._pool.geometry.head_offset(chunk.extent),
            )
        self._note_open(number, chunk)
        self._pool.set_chunk(tx, chunk.extent, number, chunk.used, chunk.free_first, chunk.frontier)

    def free(self, tx: Transaction, inode: Inode) -> None:
        """Free an inode without data: mode 0, first of its chunk's chain."""
        number = ino_to_chunk(inode.ino)
        chunk = self._chunks[number]
        tx.undo.append(lambda: self._load_chunk(number, chunk.extent))
        self.guard(tx, inode)
        inode.clear()
        inode.next = chunk.free_first
        tx.put(inode.offset, inode.encode())
        chunk.free_first = inode.ino
        chunk.used -= 1
        self.in_use -= 1
        tx.undo.append(self._recount)
        self._put_chunk(tx, number, chunk)
        tx.after.append(lambda: self._cache.pop(inode.ino, None))

    def _recount(self) -> None:
        self.in_use += 1

    def release_empty_chunk(self, tx: Transaction) -> bool:
        """Release one chunk without inodes in use, never chunk 0; tell whether there was one."""
        for number in self._open_chunks:
            chunk = self._chunks[number]
            if number and not chunk.used:
                self._validate_empty(number, chunk)
                self._pool.release(tx, chunk.extent)
                tx.after.append(partial(self._drop_chunk, number))
                return True
        return False

    def _validate_empty(self, number: int, chunk: _Chunk) -> None:
        start = extent_to_offset(chunk.extent)
        records = np.frombuffer(self._device.view, INODE.dtype, chunk.frontier, start)
        if records["mode"].any():
            raise DamagedImageError(
                f"inode chunk {number} has inodes that its head does not count; run pmemfs fsck",
                self._pool.geometry.head_offset(chunk.extent),
            )

    @property
    def has_empty_chunk(self) -> bool:
        """Whether `release_empty_chunk` would find one."""
        return any(n and not self._chunks[n].used for n in self._open_chunks)

    def _drop_chunk(self, number: int) -> None:
        del self._chunks[number]
        self._open_chunks.discard(number)

    @property
    def free_known(self) -> int:
        """Inodes that can be had without a new extent."""
        return len(self._chunks) * INODES_PER_EXTENT - self.in_use - 1  # number 0 is not used


def blocks_512(inode: Inode) -> int:
    """Return what stat(2) calls ``st_blocks``: the device pages of the data, in 512 bytes."""
    return inode.pages * (PAGE_BYTES // 512)
