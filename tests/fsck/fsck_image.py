"""A small image built by hand from the record declarations, with one of everything on it.

Nothing of the engine is used, so that what the checker expects is written down twice. `golden`
gives an image that is clean; a test damages it with the `set_`, `patch_` and `poke` verbs.

Extents: 0 and 1 fixed, 2 inodes, 3 the reserve, 4 small, 5 metadata, 6 and 7 whole, 8 returned,
9 a descriptor extent of another mount, all others free.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from pmemfs.fsck import Report, check
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    HEAD_DURABLE_BYTES,
    INODES_PER_EXTENT,
    MIN_DEVICE_BYTES,
    PAGE_BYTES,
    Geometry,
    extent_to_offset,
    extent_to_pfn,
    inode_offset,
    journal_slot_offset,
    pfn_to_extent,
    pfn_to_offset,
    pfn_to_slot,
)
from pmemfs.layout.record import Record
from pmemfs.layout.records import (
    CONTROL,
    DIRECTORY_LEAF,
    DIRECTORY_SLOT,
    HEAD,
    INODE,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    MAGIC,
    NOTHING_TO_REPLAY,
    SUPERBLOCK,
    VERSION,
    XATTR_ENTRY,
    XATTR_PAGE,
    EntryKind,
    Kind,
    MapKind,
    Role,
    seal,
)
from pmemfs.layout.words import COUNT_SHIFT, HOLE, NODE, WHOLE, owner_word

SEED = bytes(range(16))
INODES, RESERVE, SMALL, METADATA, WHOLE_A, WHOLE_B, RETURNED, STALE = range(2, 10)
DIRECTORY_NLINK = 2

(ROOT, FILE, BIG, SHORT_LINK, LONG_LINK, DIR, FIFO, TREE, ORPHAN, FREED_A, FREED_B, WIDE) = range(
    1, 13
)
FRONTIER = 13
CHUNK_1 = INODES_PER_EXTENT  # number of the first inode of a second chunk

FILE_PFN = extent_to_pfn(SMALL) + 1  # three pages: index 0, 1 and, behind a hole, 4
TREE_PFN = FILE_PFN + 3  # two pages: index 0 and 5
ORPHAN_PFN = FILE_PFN + 5
FREE_SMALL_PFN = FILE_PFN + 6

_META = extent_to_pfn(METADATA)
ROOT_LEAF, DIR_LEAF, TREE_NODE, LINK_PAGE, XATTR, WIDE_NODE, WIDE_LOW, WIDE_HIGH = range(
    _META + 1, _META + 9
)
FREE_META_PFN = _META + 9

LONG_TARGET = b"long/" * 40
HIGH_BIT = 1 << 62


def run(pfn: int, count: int, flags: int = 0) -> int:
    """Return a map word of a list of runs."""
    return pfn | flags | count << COUNT_SHIFT


def name_hash(name: bytes) -> int:
    digest = hashlib.blake2b(name, key=SEED, digest_size=8).digest()
    return int.from_bytes(digest, "little") & ~(1 << 63) & ~0xFF


def leaf_page(ino: int, entries: list[tuple[bytes, int, int]], **fields: Any) -> bytes:
    """Return a leaf of ``(name, ino, mode)`` entries."""
    page = bytearray(PAGE_BYTES)
    heap = PAGE_BYTES
    for number, (name, target, mode) in enumerate(entries):
        heap -= len(name)
        page[heap : heap + len(name)] = name
        slot = DIRECTORY_SLOT.pack(
            cookie=name_hash(name),
            ino=target,
            name_offset=heap,
            name_bytes=len(name),
            type=mode >> 12,
        )
        start = DIRECTORY_LEAF.size_bytes + number * DIRECTORY_SLOT.size_bytes
        page[start : start + len(slot)] = slot
    n = len(entries)
    header = DIRECTORY_LEAF.pack(**({"ino": ino, "slots": n, "live": n, "heap": heap} | fields))
    page[: len(header)] = header
    return bytes(page)


def xattr_page(ino: int, attributes: list[tuple[bytes, bytes]], **fields: Any) -> bytes:
    entries = b"".join(
        XATTR_ENTRY.pack(name_bytes=len(name), value_bytes=len(value)) + name + value
        for name, value in attributes
    )
    used = XATTR_PAGE.size_bytes + len(entries)
    values = {"ino": ino, "count": len(attributes), "used_bytes": used} | fields
    start = XATTR_PAGE.pack(**values)[:12]
    checksum = zlib.crc32(start + entries)
    return (start + checksum.to_bytes(4, "little") + entries).ljust(PAGE_BYTES, b"\0")


def checked(path: Path) -> Report:
    """Return what fsck finds in an image that is not open."""
    image = Image.open(path, lock="shared")
    try:
        return check(image)
    finally:
        image.close()


class HandImage:
    """A file that is being filled with records; every verb writes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.geometry = Geometry.of_size(MIN_DEVICE_BYTES)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self._fd, self.geometry.device_bytes)

    def close(self) -> None:
        os.close(self._fd)

    def check(self) -> Report:
        return checked(self.path)

    # -- bytes and records -------------------------------------------------------------------

    def peek(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def poke(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, offset)

    def poke_field(self, record: Record, offset: int, name: str, data: bytes) -> None:
        self.poke(offset + record.offset_of[name], data)

    def patch(self, record: Record, offset: int, *, sealed: bool, **fields: Any) -> None:
        """Change fields of a record; with ``sealed`` the checksum is made right again."""
        values = record.unpack(self.peek(offset, record.size_bytes)) | fields
        self.poke(offset, seal(record, **values) if sealed else record.pack(**values))

    def patch_superblocks(self, **fields: Any) -> None:
        for offset in (0, self.geometry.backup_superblock_offset):
            self.patch(SUPERBLOCK, offset, sealed=True, **fields)

    def patch_control(self, **fields: Any) -> None:
        self.patch(CONTROL, CONTROL_OFFSET, sealed=False, **fields)

    def patch_inode(self, ino: int, **fields: Any) -> None:
        self.patch(INODE, inode_offset(INODES, ino), sealed=True, **fields)

    def patch_leaf(self, pfn: int, **fields: Any) -> None:
        self.patch(DIRECTORY_LEAF, pfn_to_offset(pfn), sealed=False, **fields)

    def patch_slot(self, pfn: int, number: int, **fields: Any) -> None:
        start = DIRECTORY_LEAF.size_bytes + number * DIRECTORY_SLOT.size_bytes
        self.patch(DIRECTORY_SLOT, pfn_to_offset(pfn) + start, sealed=False, **fields)

    def set_head(self, extent: int, kind: int, **fields: Any) -> None:
        """Replace the durable half of a head, sealed, or by zeros if it is free."""
        offset = self.geometry.head_offset(extent)
        body = HEAD.pack(kind=kind, **fields)[: HEAD.offset_of["checksum"]]
        checksum = zlib.crc32(body).to_bytes(4, "little") if kind else bytes(4)
        self.poke(offset, body + checksum)

    def patch_head(self, extent: int, **fields: Any) -> None:
        head = HEAD.unpack(self.peek(self.geometry.head_offset(extent), HEAD.size_bytes))
        durable = [name for name, at in HEAD.offset_of.items() if at < HEAD_DURABLE_BYTES]
        values = {name: head[name] for name in durable if name != "checksum"} | fields
        self.set_head(extent, values.pop("kind"), **values)

    def set_owner(self, pfn: int, word: int) -> None:
        offset = extent_to_offset(pfn_to_extent(pfn)) + pfn_to_slot(pfn) * 8
        self.poke(offset, word.to_bytes(8, "little"))

    def own(self, pfn: int, word: int) -> None:
        """Give a page an owner and count it in the head."""
        self.set_owner(pfn, word)
        extent = pfn_to_extent(pfn)
        offset = self.geometry.head_offset(extent) + HEAD.offset_of["used"]
        used = int.from_bytes(self.peek(offset, 2), "little")
        self.patch_head(extent, used=used + 1)

    def set_page(self, pfn: int, data: bytes) -> None:
        self.poke(pfn_to_offset(pfn), data)

    def set_word(self, pfn: int, place: int, word: int, count: int = 1) -> None:
        self.poke(pfn_to_offset(pfn) + place * 8, word.to_bytes(8, "little") * count)

    def add_inode(self, ino: int, mode: int, **fields: Any) -> None:
        values = {"mode": mode, "nlink": 1, "generation": 1} | fields
        self.poke(inode_offset(INODES, ino), seal(INODE, **values))

    def set_transaction(
        self, sequence: int, changes: list[tuple[int, bytes | int]], **fields: Any
    ) -> None:
        """Leave a committed transaction; a number in place of bytes is that many zeros."""
        payload = b""
        for offset, data in changes:
            zeros = isinstance(data, int)
            length = data if isinstance(data, int) else len(data)
            kind = EntryKind.ZERO if zeros else EntryKind.STORE
            payload += JOURNAL_ENTRY.pack(offset=offset, length=length, kind=kind)
            payload += b"" if isinstance(data, int) else data + bytes(-length % 8)
        values = {
            "sequence": sequence,
            "payload_bytes": len(payload),
            "entries": len(changes),
            "payload_checksum": zlib.crc32(payload),
        } | fields
        self.poke(journal_slot_offset(sequence), seal(JOURNAL_HEADER, **values) + payload)
        self.patch_control(committed=sequence, state=1)


def golden(path: Path) -> HandImage:
    """Return a clean image with one of everything."""
    image = HandImage(path)
    superblock = seal(
        SUPERBLOCK,
        magic=MAGIC,
        version=VERSION,
        page_bytes=PAGE_BYTES,
        device_bytes=image.geometry.device_bytes,
        n_extents=image.geometry.n_extents,
        uuid=b"u" * 16,
        hash_seed=SEED,
        label=b"golden",
    )
    for offset in (0, image.geometry.backup_superblock_offset):
        image.poke(offset, superblock)
    control = CONTROL.pack(committed=NOTHING_TO_REPLAY | 5, generation=3, orphan_first=ORPHAN)
    image.poke(CONTROL_OFFSET, control)
    _add_heads(image)
    _add_inodes(image)
    _add_pages(image)
    return image


def _add_heads(image: HandImage) -> None:
    image.set_head(0, Kind.FIXED)
    image.set_head(1, Kind.FIXED)
    image.set_head(INODES, Kind.INODES, used=10, free_first=FREED_B, frontier=FRONTIER)
    image.set_head(RESERVE, Kind.DESCRIPTOR)
    image.set_head(SMALL, Kind.SMALL)
    image.set_head(METADATA, Kind.METADATA)
    image.set_head(WHOLE_A, Kind.WHOLE, owner=BIG, index=1)
    image.set_head(WHOLE_B, Kind.WHOLE, owner=TREE, index=1)
    image.set_head(RETURNED, Kind.RETURNED)
    image.set_head(STALE, Kind.DESCRIPTOR)
    image.poke_field(HEAD, image.geometry.head_offset(20), "wear", b"\x07")
    image.poke(extent_to_offset(RETURNED), b"left by somebody")


def _add_inodes(image: HandImage) -> None:
    directory = {"map_kind": MapKind.DIRECTORY, "parent": ROOT, "nlink": DIRECTORY_NLINK}
    add = image.add_inode
    root = directory | {"nlink": 4, "entries": 9, "map": [ROOT_LEAF]}
    add(ROOT, stat.S_IFDIR | 0o755, **root)
    runs = [run(FILE_PFN, 2), HOLE | 2, run(FILE_PFN + 2, 1)]
    add(FILE, stat.S_IFREG | 0o644, nlink=2, size=20000, pages=3, map=runs, xattr=XATTR)
    big = [HOLE | 512, run(extent_to_pfn(WHOLE_A), 512, WHOLE)]
    add(BIG, stat.S_IFREG | 0o600, size=EXTENT_BYTES + 1, pages=512, map=big)
    target = int.from_bytes(b"target", "little")
    add(SHORT_LINK, stat.S_IFLNK | 0o777, size=6, map_kind=MapKind.INLINE, map=[target])
    add(LONG_LINK, stat.S_IFLNK | 0o777, size=len(LONG_TARGET), map=[LINK_PAGE])
    add(DIR, stat.S_IFDIR | 0o755, **directory, entries=1, map=[DIR_LEAF])
    add(FIFO, stat.S_IFIFO | 0o644)
    words_ = [TREE_NODE, extent_to_pfn(WHOLE_B) | WHOLE]
    tree = {"map_kind": MapKind.TREE, "map_height": 1, "map": words_, "pages": 514}
    add(TREE, stat.S_IFREG | 0o644, size=2 * EXTENT_BYTES, **tree)
    add(ORPHAN, stat.S_IFREG | 0o644, nlink=0, pages=1, map=[run(ORPHAN_PFN, 1)])
    add(FREED_A, 0, nlink=0, generation=0)
    add(FREED_B, 0, nlink=0, generation=0, next=FREED_A)
    add(WIDE, stat.S_IFDIR | 0o755, **directory, entries=2, map=[WIDE_NODE | NODE])


def _add_pages(image: HandImage) -> None:
    for pfn, index in ((FILE_PFN, 0), (FILE_PFN + 1, 1), (FILE_PFN + 2, 4)):
        image.own(pfn, owner_word(FILE, index))
    image.own(TREE_PFN, owner_word(TREE, 0))
    image.own(TREE_PFN + 1, owner_word(TREE, 5))
    image.own(ORPHAN_PFN, owner_word(ORPHAN, 0))
    image.own(TREE_NODE, owner_word(TREE, Role.MAP))
    image.set_word(TREE_NODE, 0, TREE_PFN)
    image.set_word(TREE_NODE, 5, TREE_PFN + 1)
    image.own(LINK_PAGE, owner_word(LONG_LINK, Role.SYMLINK))
    image.set_page(LINK_PAGE, LONG_TARGET)
    image.own(XATTR, owner_word(FILE, Role.XATTR))
    image.set_page(XATTR, xattr_page(FILE, [(b"user.colour", b"red"), (b"user.empty", b"")]))
    _add_directories(image)


def _add_directories(image: HandImage) -> None:
    regular, link, directory = stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR
    image.own(ROOT_LEAF, owner_word(ROOT, Role.DIRECTORY_LEAF))
    entries = [
        (b"file", FILE, regular),
        (b"big", BIG, regular),
        (b"short", SHORT_LINK, link),
        (b"long", LONG_LINK, link),
        (b"dir", DIR, directory),
        (b"wide", WIDE, directory),
        (b"tree", TREE, regular),
        (b"fifo", FIFO, stat.S_IFIFO),
        (b"again", FILE, regular),
    ]
    image.set_page(ROOT_LEAF, leaf_page(ROOT, entries))
    image.own(DIR_LEAF, owner_word(DIR, Role.DIRECTORY_LEAF))
    image.set_page(DIR_LEAF, leaf_page(DIR, [(b"inner", FIFO, stat.S_IFIFO)]))
    image.patch_inode(FIFO, nlink=2)
    names = [f"name{i}".encode() for i in range(20)]
    low = next(name for name in names if not name_hash(name) & HIGH_BIT)
    high = next(name for name in names if name_hash(name) & HIGH_BIT)
    image.own(WIDE_NODE, owner_word(WIDE, Role.DIRECTORY_NODE))
    image.set_word(WIDE_NODE, 0, WIDE_LOW, 256)
    image.set_word(WIDE_NODE, 256, WIDE_HIGH, 256)
    for pfn, name, prefix in ((WIDE_LOW, low, 0), (WIDE_HIGH, high, HIGH_BIT)):
        image.own(pfn, owner_word(WIDE, Role.DIRECTORY_LEAF))
        page = leaf_page(WIDE, [(name, FIFO, stat.S_IFIFO)], depth=1, prefix=prefix)
        image.set_page(pfn, page)
    image.patch_inode(FIFO, nlink=4)
