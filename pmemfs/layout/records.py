"""The records of the device: name, fields, meaning. FORMAT.md is generated from here.

Checksums are CRC-32 (the polynomial of zlib) over the bytes of the record before the
``checksum`` field. What commits atomically as one word stays outside every sum.
"""

from __future__ import annotations

import zlib
from enum import IntEnum, IntFlag
from typing import Any

from pmemfs.layout.record import Field, Record

MAGIC = int.from_bytes(b"pmemfs\x00\x01", "little")
VERSION = 1
COMPAT_FEATURES = 0
RO_COMPAT_FEATURES = 0
INCOMPAT_FEATURES = 0


class Kind(IntEnum):
    """What an extent is used for; `FREE` is 0, so a table of zeros is an empty device."""

    FREE = 0
    RETURNED = 1
    WHOLE = 2
    SMALL = 3
    DESCRIPTOR = 4
    METADATA = 5
    INODES = 6
    FIXED = 7


class PageFlag(IntFlag):
    """Flags of a page descriptor (``state``) and of a head (``table``)."""

    SPLIT = 1
    REFERENCED = 2
    DIRTY = 4


class MapKind(IntEnum):
    """What the map words of an inode hold."""

    RUNS = 0
    TREE = 1
    INLINE = 2
    DIRECTORY = 3


class Role(IntEnum):
    """What a metadata page is for; bits 32 to 39 of its owner word."""

    MAP = 1
    DIRECTORY_LEAF = 2
    DIRECTORY_NODE = 3
    XATTR = 4
    SYMLINK = 5


class InodeFlag(IntFlag):
    """Inode flags; IMMUTABLE and APPEND have the values of the kernel's ``FS_*_FL``."""

    IMMUTABLE = 0x10
    APPEND = 0x20
    PREALLOCATED = 0x10000


class MountState(IntEnum):
    """Whether the image was closed by the last that had it open for writing.

    DAMAGED: it was found damaged then, and not closed as clean.
    """

    CLEAN = 0
    MOUNTED = 1
    DAMAGED = 2


class Persist(IntEnum):
    """What a mount promises to survive: the daemon's death, or the host's power loss too."""

    CACHE = 0
    DISK = 1


class RequestKind(IntEnum):
    """What a front end is asked for, in the order of ``Activity.requests``."""

    LOOKUP = 0
    GETATTR = 1
    SETATTR = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    REMOVE = 6
    RENAME = 7
    LINK = 8
    READDIR = 9
    XATTR = 10
    SYNC = 11
    SPACE = 12
    STATFS = 13
    FORGET = 14
    OTHER = 15


class EntryKind(IntEnum):
    """What a journal entry redoes."""

    STORE = 0
    ZERO = 1


SUPERBLOCK = Record(
    "Superblock",
    512,
    "page 0, and a copy in the last page of the head table's area. Nothing in it changes "
    "after mkfs.",
    [
        Field("magic", "u64", "the bytes `pmemfs`, 0, 1", "once"),
        Field("version", "u32", "format version, 1", "once"),
        Field("page_bytes", "u32", "4096", "once"),
        Field("compat", "u64", "features that an older program may ignore", "once"),
        Field("ro_compat", "u64", "features that an older program may read past", "once"),
        Field("incompat", "u64", "features that an older program must refuse", "once"),
        Field("device_bytes", "u64", "size of the device, a multiple of 2 MiB", "once"),
        Field("n_extents", "u64", "extents of the device; all else follows from it", "once"),
        Field("created_ns", "i64", "time of mkfs, ns since 1970", "once"),
        Field("uuid", "bytes:16", "identity of the image", "once"),
        Field("hash_seed", "bytes:16", "key of the directory hash", "once"),
        Field("label", "bytes:64", "UTF-8, padded with zeros", "once"),
        Field("reserved", "bytes:348", "zero", "once"),
        Field("checksum", "u32", "over all before", "once"),
    ],
)

CONTROL = Record(
    "Control",
    512,
    "page 1: the words that change alone. Each line has its own writer.",
    [
        Field(
            "committed",
            "u64",
            "**the commit point of every transaction**: its sequence number in bits 0 to 62; bit "
            "63 says that there is nothing to replay",
            "publish",
        ),
        Field("reserved0", "bytes:56", "zero", "once"),
        Field(
            "sequence",
            "u64",
            "odd while home stores or descriptors move: a reader that saw it odd, or changed, "
            "reads again",
            "transient",
        ),
        Field("reserved1", "bytes:56", "zero", "once"),
        Field(
            "generation",
            "u64",
            "mount generation, raised before the first request; transient halves and split "
            "tables of any other are void",
            "publish",
        ),
        Field("state", "u64", "0 clean, 1 mounted for writing, 2 found damaged then", "publish"),
        Field("boot_id", "bytes:16", "boot id of the host that mounted it last", "fresh"),
        Field("persist", "u64", "persistence mode of that mount: 0 cache, 1 disk", "fresh"),
        Field("mounted_ns", "i64", "time of that mount, ns since 1970", "fresh"),
        Field("reserved2", "bytes:16", "zero", "once"),
        Field("orphan_first", "u64", "first inode of the orphan list, 0 when empty"),
        Field("reserved3", "bytes:56", "zero", "once"),
        Field("reserved4", "bytes:256", "zero", "once"),
    ],
)

ACTIVITY = Record(
    "Activity",
    256,
    "page 2: what the daemon has done since its mount, for who looks on. Stored whole, at most "
    "once per second, never fenced; believed only while the daemon lives.",
    [
        Field("generation", "u64", "mount generation that counts", "transient"),
        Field("stored_ns", "i64", "when this was stored, ns since 1970", "transient"),
        Field("splits", "u64", "extents split", "transient"),
        Field("unsplits", "u64", "split tables given back", "transient"),
        Field("stolen", "u64", "of these, because nothing was free for another", "transient"),
        Field("stores", "u64", "stores to the device", "transient"),
        Field("bytes_stored", "u64", "bytes of these", "transient"),
        Field("lines_flushed", "u64", "lines of 64 bytes flushed", "transient"),
        Field("fences", "u64", "fences", "transient"),
        Field("reserved", "bytes:56", "zero", "transient"),
        Field("requests", "u64", "requests served, by RequestKind", "transient", count=16),
    ],
)

JOURNAL_HEADER = Record(
    "JournalHeader",
    64,
    "start of a journal slot. The slot of a transaction is its sequence number modulo 2.",
    [
        Field("sequence", "u64", "number of the transaction", "fresh"),
        Field("payload_bytes", "u64", "bytes of all entries that follow", "fresh"),
        Field("entries", "u32", "how many entries follow", "fresh"),
        Field("payload_checksum", "u32", "CRC-32 of these payload bytes", "fresh"),
        Field("reserved", "bytes:36", "zero", "fresh"),
        Field("checksum", "u32", "over all before", "fresh"),
    ],
)

JOURNAL_ENTRY = Record(
    "JournalEntry",
    16,
    "one redo: followed by `length` bytes, padded to 8, unless it is of kind ZERO.",
    [
        Field("offset", "u64", "device offset of the home", "fresh"),
        Field("length", "u32", "bytes to redo", "fresh"),
        Field("kind", "u32", "0 store the bytes that follow, 1 store zeros", "fresh"),
    ],
)

HEAD = Record(
    "HeadDescriptor",
    64,
    "one for each extent, linear from extent 1. 64 zeros are a valid free head; otherwise the "
    "first 32 bytes carry a checksum, and change through the journal only. The second half is "
    "transient.",
    [
        Field("kind", "u8", "see Kind"),
        Field("reserved0", "u8", "zero"),
        Field("used", "u16", "pages owned (small, metadata), or inodes in use (inodes)"),
        Field("owner", "u32", "inode number (whole), else 0"),
        Field("index", "u32", "which 2 MiB piece of the file (whole), which inode chunk (inodes)"),
        Field("free_first", "u32", "first inode number of the free chain (inodes), else 0"),
        Field("frontier", "u32", "inodes of the chunk ever used; behind it all is zero (inodes)"),
        Field("reserved1", "u32", "zero"),
        Field("reserved2", "u32", "zero"),
        Field("checksum", "u32", "over the 28 bytes before; 0 in a head of zeros"),
        Field("generation", "u64", "mount generation that wrote table and access", "transient"),
        Field("table", "u64", "pfn of the split table << 8 | PageFlag bits", "transient"),
        Field("access_s", "u64", "last access, s since 1970", "transient"),
        Field("wear", "u64", "lines flushed in this extent, ever; a lower bound", "transient"),
    ],
)

PAGE_DESCRIPTOR = Record(
    "PageDescriptor",
    64,
    "one for each page of a split extent, 512 in a split table. Never trusted after a restart, "
    "so no ABI.",
    [
        Field(
            "owner",
            "u64",
            "the owner word of the page; 0: not touched since the split",
            "transient",
        ),
        Field("state", "u64", "last access in s since 1970 << 8 | PageFlag bits", "transient"),
        Field("wear", "u64", "lines flushed since the split", "transient"),
        Field("reserved", "bytes:40", "zero", "transient"),
    ],
)

INODE = Record(
    "Inode",
    256,
    "fixed records, 8192 to an extent of kind INODES; number = chunk × 8192 + place.",
    [
        Field("mode", "u32", "file type and permissions as in stat(2); 0: free"),
        Field("nlink", "u32", "names; 0 with mode set: on the orphan list"),
        Field("uid", "u32", "owner"),
        Field("gid", "u32", "group"),
        Field("size", "u64", "bytes (file, symlink); 0 for others"),
        Field("pages", "u64", "pages of the device that hold data of it"),
        Field("atime_ns", "i64", "access time, ns since 1970"),
        Field("mtime_ns", "i64", "modification time, ns since 1970"),
        Field("ctime_ns", "i64", "change time, ns since 1970"),
        Field("btime_ns", "i64", "birth time, ns since 1970"),
        Field("generation", "u64", "sequence number of the transaction that made it"),
        Field("rdev", "u64", "device number (device nodes)"),
        Field("entries", "u64", "entries without . and .. (directories)"),
        Field("xattr", "u64", "pfn of the page of extended attributes, or 0"),
        Field("flags", "u32", "see InodeFlag"),
        Field("parent", "u32", "inode of the parent (directories)"),
        Field("next", "u32", "next in the free chain, or on the orphan list; 0 ends both"),
        Field("map_kind", "u8", "see MapKind"),
        Field("map_height", "u8", "levels of nodes below the map words (TREE)"),
        Field("reserved0", "u16", "zero"),
        Field("map", "u64", "map words, or up to 136 bytes of symlink target", count=17),
        Field("reserved1", "u32", "zero"),
        Field("checksum", "u32", "over all before"),
    ],
)

DIRECTORY_LEAF = Record(
    "DirectoryLeaf",
    32,
    "start of a leaf page. Slots follow upwards, names fill the page from its end downwards.",
    [
        Field("ino", "u32", "directory it belongs to"),
        Field("depth", "u32", "bits of the hash that all its entries share, from bit 62 down"),
        Field("slots", "u16", "slots used, with the deleted ones between"),
        Field("live", "u16", "entries"),
        Field("heap", "u16", "offset in the page of the lowest name byte"),
        Field("garbage", "u16", "name bytes of deleted entries"),
        Field("prefix", "u64", "these shared bits, the others zero"),
        Field("reserved", "u64", "zero"),
    ],
)

DIRECTORY_SLOT = Record(
    "DirectorySlot",
    16,
    "one entry of a leaf; a cookie of 0 is a deleted one.",
    [
        Field(
            "cookie",
            "u64",
            "hash of the name in bits 8 to 62, a number to tell equals apart in 0 to 7",
        ),
        Field("ino", "u32", "inode number"),
        Field("name_offset", "u16", "offset of the name in the page"),
        Field("name_bytes", "u8", "1 to 255"),
        Field("type", "u8", "file type, mode >> 12"),
    ],
)

XATTR_PAGE = Record(
    "XattrPage",
    16,
    "start of a page of extended attributes, written whole and never changed.",
    [
        Field("ino", "u32", "inode it belongs to", "fresh"),
        Field("count", "u32", "entries that follow", "fresh"),
        Field("used_bytes", "u32", "bytes of header and entries", "fresh"),
        Field("checksum", "u32", "over the three fields before and all entries", "fresh"),
    ],
)

XATTR_ENTRY = Record(
    "XattrEntry",
    4,
    "followed by the full name and the value, without padding.",
    [
        Field("name_bytes", "u16", "1 to 255", "fresh"),
        Field("value_bytes", "u16", "0 upwards", "fresh"),
    ],
)

RECORDS = (
    SUPERBLOCK,
    CONTROL,
    ACTIVITY,
    JOURNAL_HEADER,
    JOURNAL_ENTRY,
    HEAD,
    PAGE_DESCRIPTOR,
    INODE,
    DIRECTORY_LEAF,
    DIRECTORY_SLOT,
    XATTR_PAGE,
    XATTR_ENTRY,
)

XATTR_NAMESPACES = (b"user.", b"trusted.", b"security.")
XATTR_SYSTEM_NAMES = (b"system.posix_acl_access", b"system.posix_acl_default")
NOTHING_TO_REPLAY = 1 << 63
MAX_SEQUENCE = MAX_GENERATION = 1 << 62  # no image lives so long: beyond them it is damaged
MAP_WORDS = 17
INLINE_BYTES = MAP_WORDS * 8


def seal(record: Record, **values: Any) -> bytes:
    """Pack a record whose last field is ``checksum`` with the sum filled in."""
    body = record.pack(**values)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def is_sealed(record: Record, buffer: Any, offset: int = 0) -> bool:
    """Tell whether the checksum at the end of a record is right."""
    end = offset + record.size_bytes
    return zlib.crc32(buffer[offset : end - 4]) == int.from_bytes(buffer[end - 4 : end], "little")
