"""Where the records of an image are, found by the format's declarations, and their sums made right.

A `Site` is one record at one place. Packed words, which have no record of their own, are given
one here, so that everything can be changed in the same way.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmemfs.image import Image
from pmemfs.layout.geometry import (
    ACTIVITY_OFFSET,
    CONTROL_OFFSET,
    INODE_BYTES,
    INODES_PER_EXTENT,
    JOURNAL_SLOTS,
    PAGE_BYTES,
    PAGE_DESCRIPTOR_BYTES,
    PAGES_PER_EXTENT,
    SPLIT_TABLE_BYTES,
    WORD_BYTES,
    WORDS_PER_PAGE,
    Geometry,
    extent_to_offset,
    extent_to_pfn,
    journal_slot_offset,
    pfn_to_offset,
)
from pmemfs.layout.record import Field, Record
from pmemfs.layout.records import (
    ACTIVITY,
    CONTROL,
    DIRECTORY_LEAF,
    DIRECTORY_SLOT,
    HEAD,
    INODE,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    MAP_WORDS,
    PAGE_DESCRIPTOR,
    SUPERBLOCK,
    XATTR_ENTRY,
    XATTR_PAGE,
    EntryKind,
    Kind,
    PageFlag,
    Role,
)
from pmemfs.layout.words import owner_index

OWNER_WORD = Record("OwnerWord", 8, "", [Field("ino", "u32", ""), Field("index", "u32", "")])
MAP_WORD = Record("MapWord", 8, "", [Field("word", "u64", "")])
NODE_WORD = Record("NodeWord", 8, "", [Field("word", "u64", "")])
DIRECTORY_WORD = Record("DirectoryWord", 8, "", [Field("word", "u64", "")])

_SELF_SUMMED = (SUPERBLOCK, JOURNAL_HEADER, INODE)


class ImageFile:
    """The bytes of one image file, to be damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset).ljust(length, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, offset)

    def resize(self, length: int) -> None:
        os.ftruncate(self._fd, length)


@dataclass(frozen=True)
class Site:
    """One record. ``summed`` is the record whose sum covers this one, and where that begins."""

    record: Record
    offset: int
    summed: tuple[Record, int] | None = None

    def reseal(self, file: ImageFile) -> None:
        """Make the sum that covers the record right."""
        if self.summed is None:
            return
        record, start = self.summed
        if record in _SELF_SUMMED:
            body = file.read(start, record.size_bytes - 4)
            file.write(start + len(body), _sum(body))
        elif record is HEAD:
            at = HEAD.offset_of["checksum"]
            file.write(start + at, _sum(file.read(start, at)))
        elif record is XATTR_PAGE:
            page = file.read(start, PAGE_BYTES)
            used = XATTR_PAGE.unpack(page)["used_bytes"]
            file.write(start + 12, _sum(page[:12] + page[16 : min(used, PAGE_BYTES)]))
        else:
            self._reseal_payload(file, start)

    @staticmethod
    def _reseal_payload(file: ImageFile, start: int) -> None:
        header = JOURNAL_HEADER.unpack(file.read(start, JOURNAL_HEADER.size_bytes))
        length = min(header["payload_bytes"], 1 << 20)
        payload = file.read(start + JOURNAL_HEADER.size_bytes, length)
        file.write(start + JOURNAL_HEADER.offset_of["payload_checksum"], _sum(payload))
        Site(JOURNAL_HEADER, start, (JOURNAL_HEADER, start)).reseal(file)


def _sum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


class Sites:
    """All sites of an undamaged image by the name of their record; ``pages`` are pfns in use."""

    def __init__(self, path: Path) -> None:
        self.by_name: dict[str, list[Site]] = {}
        self.pages: list[int] = [0, 1]
        image = Image.open(path, lock="none")
        file = ImageFile(path)
        try:
            self.geometry: Geometry = image.geometry
            for site in self._iter_sites(image, file):
                self.by_name.setdefault(site.record.name, []).append(site)
        finally:
            file.close()
            image.close()

    def _iter_sites(self, image: Image, file: ImageFile) -> Iterator[Site]:
        for offset in (0, self.geometry.backup_superblock_offset):
            yield Site(SUPERBLOCK, offset, (SUPERBLOCK, offset))
        yield Site(CONTROL, CONTROL_OFFSET)
        yield Site(ACTIVITY, ACTIVITY_OFFSET)
        for slot in range(JOURNAL_SLOTS):
            yield from _journal(file, journal_slot_offset(slot))
        for extent in range(self.geometry.n_extents):
            head = HEAD.unpack(file.read(self.geometry.head_offset(extent), HEAD.size_bytes))
            if any(head.values()):
                offset = self.geometry.head_offset(extent)
                yield Site(HEAD, offset, (HEAD, offset))
                yield from self._extent(file, extent, head)

    def _extent(self, file: ImageFile, extent: int, head: dict[str, int]) -> Iterator[Site]:
        start = extent_to_offset(extent)
        if head["kind"] == Kind.INODES:
            self.pages.append(extent_to_pfn(extent))
            for place in range(min(head["frontier"], INODES_PER_EXTENT)):
                yield from _inode(start + place * INODE_BYTES)
        elif head["kind"] in (Kind.SMALL, Kind.METADATA):
            words = np.frombuffer(file.read(start, PAGE_BYTES), "<u8").tolist()
            for slot in range(PAGES_PER_EXTENT):
                if words[slot] or slot in (0, 511):
                    yield Site(OWNER_WORD, start + slot * WORD_BYTES)
                if words[slot] and head["kind"] == Kind.METADATA:
                    pfn = extent_to_pfn(extent) + slot
                    self.pages.append(pfn)
                    yield from _metadata(file, pfn_to_offset(pfn), owner_index(words[slot]))
            self.pages += [extent_to_pfn(extent), extent_to_pfn(extent) + 1]
        elif head["kind"] == Kind.WHOLE:
            self.pages.append(extent_to_pfn(extent))
        if head["table"] & PageFlag.SPLIT:
            yield from _table(file, pfn_to_offset(head["table"] >> 8))


def _journal(file: ImageFile, start: int) -> Iterator[Site]:
    yield Site(JOURNAL_HEADER, start, (JOURNAL_HEADER, start))
    header = JOURNAL_HEADER.unpack(file.read(start, JOURNAL_HEADER.size_bytes))
    position = start + JOURNAL_HEADER.size_bytes
    for _ in range(header["entries"]):
        yield Site(JOURNAL_ENTRY, position, (JOURNAL_ENTRY, start))
        entry = JOURNAL_ENTRY.unpack(file.read(position, JOURNAL_ENTRY.size_bytes))
        position += JOURNAL_ENTRY.size_bytes
        if entry["kind"] == EntryKind.STORE:
            position += -(-entry["length"] // 8) * 8


def _inode(start: int) -> Iterator[Site]:
    yield Site(INODE, start, (INODE, start))
    for place in range(MAP_WORDS):
        offset = start + INODE.offset_of["map"] + place * WORD_BYTES
        yield Site(MAP_WORD, offset, (INODE, start))


def _metadata(file: ImageFile, start: int, role: int) -> Iterator[Site]:
    page = file.read(start, PAGE_BYTES)
    if role == Role.DIRECTORY_LEAF:
        yield Site(DIRECTORY_LEAF, start)
        for slot in range(DIRECTORY_LEAF.unpack(page)["slots"]):
            place = DIRECTORY_LEAF.size_bytes + slot * DIRECTORY_SLOT.size_bytes
            yield Site(DIRECTORY_SLOT, start + place)
    elif role in (Role.DIRECTORY_NODE, Role.MAP):
        record = NODE_WORD if role == Role.MAP else DIRECTORY_WORD
        for place in range(WORDS_PER_PAGE):
            if any(page[place * 8 : place * 8 + 8]) or place in (0, 511):
                yield Site(record, start + place * WORD_BYTES)
    elif role == Role.XATTR:
        yield Site(XATTR_PAGE, start, (XATTR_PAGE, start))
        position = XATTR_PAGE.size_bytes
        for _ in range(XATTR_PAGE.unpack(page)["count"]):
            yield Site(XATTR_ENTRY, start + position, (XATTR_PAGE, start))
            position += XATTR_ENTRY.size_bytes + sum(XATTR_ENTRY.unpack(page, position).values())


def _table(file: ImageFile, start: int) -> Iterator[Site]:
    for place in range(0, SPLIT_TABLE_BYTES, PAGE_DESCRIPTOR_BYTES):
        if any(file.read(start + place, 8)):
            yield Site(PAGE_DESCRIPTOR, start + place)
