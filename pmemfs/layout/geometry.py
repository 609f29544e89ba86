"""Where things are, and the only place that converts between pfn, extent and offset.

A device is ``n_extents`` extents of 2 MiB, 512 pages each. Extent 0 holds the superblock, the
control page and the journal. The head table follows from extent 1, with the backup superblock
in its last page; then come the first extent of inodes and the descriptor reserve. Everything
behind is free at mkfs.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pmemfs.errors import PmemfsError
from pmemfs.units import MIB, format_size

PAGE_BYTES = 4096
PAGE_SHIFT = 12
PAGES_PER_EXTENT = 512
EXTENT_BYTES = PAGE_BYTES * PAGES_PER_EXTENT
EXTENT_SHIFT = 21
EXTENT_PAGE_SHIFT = 9
WORD_BYTES = 8
WORDS_PER_PAGE = PAGE_BYTES // WORD_BYTES

HEAD_BYTES = 64
HEAD_DURABLE_BYTES = 32
PAGE_DESCRIPTOR_BYTES = 64
SPLIT_TABLE_BYTES = PAGES_PER_EXTENT * PAGE_DESCRIPTOR_BYTES
SPLIT_TABLES_PER_EXTENT = EXTENT_BYTES // SPLIT_TABLE_BYTES
INODE_BYTES = 256
INODE_SHIFT = 8
INODES_PER_EXTENT = EXTENT_BYTES // INODE_BYTES
INODE_CHUNK_SHIFT = 13

MIN_DEVICE_BYTES = 64 * MIB
MAX_PFN_BITS = 40
MAX_DEVICE_BYTES = 1 << (MAX_PFN_BITS + PAGE_SHIFT)
MAX_FILE_BYTES = 1 << 44
MAX_FILE_PAGES = MAX_FILE_BYTES // PAGE_BYTES
NAME_MAX = 255
SYMLINK_MAX = 4095
MAX_DEVICE_NUMBER = (1 << 32) - 1  # 12 bits major, 20 bits minor, as Linux has them
LINK_MAX = 65000

SUPERBLOCK_OFFSET = 0
CONTROL_OFFSET = PAGE_BYTES
ACTIVITY_OFFSET = 2 * PAGE_BYTES
JOURNAL_OFFSET = 16 * PAGE_BYTES
JOURNAL_SLOT_BYTES = 64 * PAGE_BYTES
JOURNAL_SLOTS = 2
HEAD_TABLE_OFFSET = EXTENT_BYTES
ROOT_INO = 1


@dataclass(frozen=True)
class Geometry:
    """The fixed layout of a device; every number follows from ``n_extents``."""

    n_extents: int

    @classmethod
    def of_size(cls, size_bytes: int) -> Geometry:
        """Return the geometry of a device of at most ``size_bytes``, rounded down to extents.

        Raises `PmemfsError` with EINVAL below 64 MiB or beyond what a pfn can count.
        """
        if size_bytes < MIN_DEVICE_BYTES:
            raise PmemfsError(
                errno.EINVAL,
                f"{format_size(size_bytes)} is too small: an image needs at least "
                f"{format_size(MIN_DEVICE_BYTES)}",
            )
        if size_bytes >= MAX_DEVICE_BYTES:
            raise PmemfsError(errno.EFBIG, f"{format_size(size_bytes)} is beyond the format")
        return cls(size_bytes // EXTENT_BYTES)

    @property
    def device_bytes(self) -> int:
        """Bytes of the device, a multiple of 2 MiB."""
        return self.n_extents * EXTENT_BYTES

    @property
    def n_pages(self) -> int:
        """Pages of the device."""
        return self.n_extents * PAGES_PER_EXTENT

    @property
    def head_table_bytes(self) -> int:
        """Bytes of all head descriptors: exactly 64 for each extent."""
        return self.n_extents * HEAD_BYTES

    @property
    def head_table_extents(self) -> int:
        """Extents that the head table and the backup superblock take."""
        return -(-(self.head_table_bytes + PAGE_BYTES) // EXTENT_BYTES)

    @property
    def backup_superblock_offset(self) -> int:
        """Byte offset of the second superblock copy: the last page of the head table's area."""
        return HEAD_TABLE_OFFSET + self.head_table_extents * EXTENT_BYTES - PAGE_BYTES

    @property
    def first_inode_extent(self) -> int:
        """The extent of inodes that exists from mkfs on; it holds the root."""
        return 1 + self.head_table_extents

    @property
    def reserve_extent(self) -> int:
        """The descriptor extent reserved at mkfs, so that a split never fails."""
        return self.first_inode_extent + 1

    @property
    def fixed_extents(self) -> int:
        """How many extents are taken from mkfs on: 0 up to this are never freed."""
        return self.reserve_extent + 1

    def head_offset(self, extent: int) -> int:
        """Byte offset of the head descriptor of an extent."""
        return HEAD_TABLE_OFFSET + extent * HEAD_BYTES


def pfn_to_offset(pfn: int) -> int:
    """Byte offset of a page."""
    return pfn << PAGE_SHIFT


def pfn_to_extent(pfn: int) -> int:
    """The extent a page lies in."""
    return pfn >> EXTENT_PAGE_SHIFT


def pfn_to_slot(pfn: int) -> int:
    """The number of a page within its extent, 0 to 511."""
    return pfn & (PAGES_PER_EXTENT - 1)


def extent_to_pfn(extent: int) -> int:
    """The first page of an extent; in a small or metadata extent, its owner page."""
    return extent << EXTENT_PAGE_SHIFT


def extent_to_offset(extent: int) -> int:
    """Byte offset of an extent."""
    return extent << EXTENT_SHIFT


def offset_to_extent(offset: int) -> int:
    """The extent a byte offset lies in."""
    return offset >> EXTENT_SHIFT


def offset_to_pfn(offset: int) -> int:
    """The page a byte offset lies in."""
    return offset >> PAGE_SHIFT


def journal_slot_offset(sequence: int) -> int:
    """Byte offset of the journal slot that a transaction sequence number uses."""
    return JOURNAL_OFFSET + (sequence % JOURNAL_SLOTS) * JOURNAL_SLOT_BYTES


def inode_offset(chunk_extent: int, ino: int) -> int:
    """Byte offset of an inode, given the extent that holds its chunk."""
    return (chunk_extent << EXTENT_SHIFT) + ((ino & (INODES_PER_EXTENT - 1)) << INODE_SHIFT)


def ino_to_chunk(ino: int) -> int:
    """The chunk (8192 inodes, one extent) an inode number lies in."""
    return ino >> INODE_CHUNK_SHIFT
