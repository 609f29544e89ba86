"""One leaf page of a directory: find, add and remove entries within it.

Slots grow upwards behind the header, names fill the page from its end downwards. Removing leaves
a hole in both; a full leaf with enough garbage is packed anew. Records: `DirectoryLeaf` and
`DirectorySlot` in `pmemfs.layout.records`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pmemfs.errors import DamagedImageError
from pmemfs.journal import Transaction
from pmemfs.layout.geometry import PAGE_BYTES
from pmemfs.layout.records import DIRECTORY_LEAF, DIRECTORY_SLOT

HEADER_BYTES = DIRECTORY_LEAF.size_bytes
SLOT_BYTES = DIRECTORY_SLOT.size_bytes
COUNTS_OFFSET = DIRECTORY_LEAF.offset_of["slots"]

_unpack_slot = DIRECTORY_SLOT.struct.unpack_from
_pack_slot = DIRECTORY_SLOT.struct.pack
_COUNTS = struct.Struct("<HHHH")
_unpack_count = struct.Struct("<H").unpack_from
_SHAPE = struct.Struct("<IIHHHHQ")

Page = bytes | bytearray | memoryview
Find = Callable[[bytes, int, int], int]


_NO_NAMES = (b"", b".", b"..")


class Entry(NamedTuple):
    """One directory entry."""

    cookie: int
    ino: int
    type: int
    name: bytes


class Shape(NamedTuple):
    """The header of a leaf."""

    ino: int
    depth: int
    slots: int
    live: int
    heap: int
    garbage: int
    prefix: int


def read_shape(page: Page) -> Shape:
    """Return the header of a leaf page."""
    return Shape(*_SHAPE.unpack_from(page))


def damaged_directory(ino: int) -> DamagedImageError:
    """Return the error for a directory that cannot be."""
    return DamagedImageError(f"directory {ino} is damaged; run pmemfs fsck")


def validate_shape(shape: Shape) -> None:
    """Raise `DamagedImageError` unless slots and names fit in the page and do not overlap."""
    end = HEADER_BYTES + shape.slots * SLOT_BYTES
    if not end <= shape.heap <= PAGE_BYTES or shape.live > shape.slots:
        raise damaged_directory(shape.ino)


def read_entries(page: Page) -> list[Entry]:
    """Return the entries of a leaf page in the order of their slots.

    Raises `DamagedImageError` for an entry whose name cannot be one.
    """
    entries = []
    shape = read_shape(page)
    validate_shape(shape)
    heap = shape.heap
    names = bytes(page[heap:])
    is_doubtful = b"/" in names or b"\0" in names  # or it is left of a name that was deleted
    for start in range(HEADER_BYTES, HEADER_BYTES + shape.slots * SLOT_BYTES, SLOT_BYTES):
        cookie, ino, offset, length, file_type = _unpack_slot(page, start)
        if cookie:
            name = names[offset - heap : offset - heap + length]
            if offset < heap or offset + length > PAGE_BYTES:
                raise damaged_directory(shape.ino)
            if (length < 3 or is_doubtful) and not _is_name(name):
                raise damaged_directory(shape.ino)
            entries.append(Entry(cookie, ino, file_type, name))
    return entries


def _is_name(name: bytes) -> bool:
    return not (b"/" in name or b"\0" in name or name in _NO_NAMES)


def build(ino: int, depth: int, prefix: int, entries: list[Entry]) -> bytearray:
    """Return the page of a leaf that holds these entries, without holes."""
    page = bytearray(PAGE_BYTES)
    heap = PAGE_BYTES
    for number, (cookie, child, file_type, name) in enumerate(entries):
        heap -= len(name)
        if heap < HEADER_BYTES + len(entries) * SLOT_BYTES:
            raise damaged_directory(ino)  # more than a page can have held
        page[heap : heap + len(name)] = name
        start = HEADER_BYTES + number * SLOT_BYTES
        DIRECTORY_SLOT.struct.pack_into(page, start, cookie, child, heap, len(name), file_type)
    _SHAPE.pack_into(page, 0, ino, depth, len(entries), len(entries), heap, 0, prefix)
    return page


def find_slot(find: Find, page: Page, start: int, cookie: int, name: bytes) -> int:
    """Return the byte of the page at which the slot of a name begins, or -1.

    ``find`` searches, as `bytes.find` does, a buffer in which the page begins at ``start``. The
    number that tells names of equal hash apart is not looked at: the names are compared.
    """
    for slot in _iter_slots(find, page, start, cookie):
        _, _, offset, length, _ = _unpack_slot(page, slot)
        if length == len(name) and page[offset : offset + length] == name:
            return slot
    return -1


def has_hash(find: Find, page: Page, start: int, cookie: int) -> bool:
    """Whether a name of that hash is in a leaf; arguments as for `find_slot`."""
    return any(True for _ in _iter_slots(find, page, start, cookie))


def _iter_slots(find: Find, page: Page, start: int, cookie: int) -> Iterator[int]:
    """Iterate the bytes at which slots with the hash of a cookie begin."""
    (slots,) = _unpack_count(page, COUNTS_OFFSET)
    stop = start + min(HEADER_BYTES + slots * SLOT_BYTES, PAGE_BYTES)
    needle = cookie.to_bytes(8, "little")[1:]
    place = find(needle, start + HEADER_BYTES, stop)
    while place >= 0:
        slot = place - start - 1
        if (slot - HEADER_BYTES) % SLOT_BYTES == 0:
            yield slot
        place = find(needle, place + 1, stop)


def add(tx: Transaction, pfn: int, entry: Entry) -> bool:
    """Add an entry to a leaf; returns False when it has no room, packed or not."""
    page = tx.page(pfn)
    shape = read_shape(page)
    validate_shape(shape)
    length = len(entry.name)
    end = HEADER_BYTES + (shape.slots + 1) * SLOT_BYTES
    if shape.heap - end < length:
        holes = (shape.slots - shape.live) * SLOT_BYTES + shape.garbage
        if shape.heap - end + holes < length:
            return False
        packed = build(shape.ino, shape.depth, shape.prefix, [*read_entries(page), entry])
        tx.patch(pfn, 0, packed)
        return True
    heap = shape.heap - length
    tx.patch(pfn, heap, entry.name)
    slot = _pack_slot(entry.cookie, entry.ino, heap, length, entry.type)
    tx.patch(pfn, end - SLOT_BYTES, slot)
    counts = _COUNTS.pack(shape.slots + 1, shape.live + 1, heap, shape.garbage)
    tx.patch(pfn, COUNTS_OFFSET, counts)
    return True


def remove(tx: Transaction, pfn: int, slot_start: int) -> int:
    """Remove the entry whose slot starts at that byte of the page; return how many are left."""
    page = tx.page(pfn)
    shape = read_shape(page)
    if shape.live < 2 and len(read_entries(page)) != 1:
        raise damaged_directory(shape.ino)  # there are others, and they would be lost
    length = _unpack_slot(page, slot_start)[3]
    tx.patch(pfn, slot_start, bytes(SLOT_BYTES))
    if shape.live == 1:
        counts = _COUNTS.pack(0, 0, PAGE_BYTES, 0)
    else:
        garbage = min(shape.garbage + length, PAGE_BYTES)
        counts = _COUNTS.pack(shape.slots, shape.live - 1, shape.heap, garbage)
    tx.patch(pfn, COUNTS_OFFSET, counts)
    return shape.live - 1


def set_depth(tx: Transaction, pfn: int, depth: int) -> None:
    """Make a leaf cover all hashes that share its first ``depth`` bits."""
    prefix = read_shape(tx.page(pfn)).prefix & -(1 << 63 - depth)
    tx.patch(pfn, DIRECTORY_LEAF.offset_of["depth"], depth.to_bytes(4, "little"))
    tx.patch(pfn, DIRECTORY_LEAF.offset_of["prefix"], prefix.to_bytes(8, "little"))
