"""Images made by hand from the record declarations, without the engine."""

import fcntl
import os
import stat
import zlib
from contextlib import contextmanager

from pmemfs.inspect.directory import name_hash
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    PAGE_BYTES,
    PAGE_DESCRIPTOR_BYTES,
    Geometry,
    extent_to_offset,
    inode_offset,
    journal_slot_offset,
    pfn_to_extent,
    pfn_to_offset,
    pfn_to_slot,
)
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
    PAGE_DESCRIPTOR,
    SUPERBLOCK,
    VERSION,
    Kind,
    MapKind,
    MountState,
    Role,
    seal,
)
from pmemfs.layout.words import owner_word

SEED = b"0123456789abcdef"
MIB = 1 << 20


class HandBuilt:
    """A sparse image file, as mkfs leaves it, that tests write into."""

    def __init__(self, path, size_bytes=64 * MIB):
        self.path = path
        self.geometry = Geometry.of_size(size_bytes)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(self.fd, self.geometry.device_bytes)
        self.superblock()
        self.control(committed=NOTHING_TO_REPLAY, generation=7)
        for extent in range(self.geometry.fixed_extents):
            self.head(extent, Kind.FIXED)
        self.head(self.geometry.first_inode_extent, Kind.INODES, used=0, frontier=1)
        self.head(self.geometry.reserve_extent, Kind.DESCRIPTOR)
        self.inodes_used = 0

    def close(self):
        os.close(self.fd)

    def store(self, offset, data):
        os.pwrite(self.fd, data, offset)

    def superblock(self, **fields):
        values = {
            "magic": MAGIC,
            "version": VERSION,
            "page_bytes": PAGE_BYTES,
            "device_bytes": self.geometry.device_bytes,
            "n_extents": self.geometry.n_extents,
            "created_ns": 1_700_000_000_123456789,
            "uuid": bytes(range(16)),
            "hash_seed": SEED,
            "label": b"hand",
        } | fields
        data = seal(SUPERBLOCK, **values)
        self.store(0, data)
        self.store(self.geometry.backup_superblock_offset, data)

    def control(self, **fields):
        """Change some fields of the control page."""
        before = CONTROL.unpack(os.pread(self.fd, CONTROL.size_bytes, CONTROL_OFFSET))
        self.store(CONTROL_OFFSET, CONTROL.pack(**before | fields))

    def head(self, extent, kind, **fields):
        body = bytearray(HEAD.pack(kind=kind, **fields))
        if any(body[:32]):
            body[28:32] = zlib.crc32(body[:28]).to_bytes(4, "little")
        self.store(self.geometry.head_offset(extent), bytes(body))

    def small(self, extent, owners, **fields):
        """Make a small extent; ``owners`` maps slots to (inode, page index)."""
        self.head(extent, Kind.SMALL, used=len(owners), **fields)
        for slot, (ino, index) in owners.items():
            self.word(extent * 512, slot, owner_word(ino, index))

    def metadata(self, extent, owners):
        """Make a metadata extent; ``owners`` maps slots to (inode, role)."""
        self.head(extent, Kind.METADATA, used=len(owners))
        for slot, (ino, role) in owners.items():
            self.word(extent * 512, slot, owner_word(ino, role))

    def word(self, pfn, slot, value):
        self.store(pfn_to_offset(pfn) + slot * 8, value.to_bytes(8, "little"))

    def words(self, pfn, values):
        for slot, value in values.items():
            self.word(pfn, slot, value)

    def descriptor(self, table_pfn, slot, **fields):
        offset = pfn_to_offset(table_pfn) + slot * PAGE_DESCRIPTOR_BYTES
        self.store(offset, PAGE_DESCRIPTOR.pack(**fields))

    def inode(self, ino, mode, **fields):
        if "map" in fields:
            fields["map"] = tuple(fields["map"]) + (0,) * (17 - len(fields["map"]))
        self.store(
            inode_offset(self.geometry.first_inode_extent, ino),
            seal(INODE, mode=mode, nlink=1, **fields),
        )
        self.inodes_used += 1
        self.head(
            self.geometry.first_inode_extent, Kind.INODES, used=self.inodes_used, frontier=ino + 1
        )

    def directory(self, ino, word, entries, parent=1):
        self.inode(
            ino,
            stat.S_IFDIR | 0o755,
            map=[word],
            map_kind=MapKind.DIRECTORY,
            entries=entries,
            parent=parent,
        )

    def leaf(self, pfn, ino, names, depth=0, prefix=0):
        """Write a leaf; ``names`` maps names to inode numbers."""
        page = bytearray(PAGE_BYTES)
        heap = PAGE_BYTES
        for slot, (name, entry_ino) in enumerate(names.items()):
            heap -= len(name)
            page[heap : heap + len(name)] = name
            place = DIRECTORY_LEAF.size_bytes + slot * DIRECTORY_SLOT.size_bytes
            page[place : place + 16] = DIRECTORY_SLOT.pack(
                cookie=name_hash(name, SEED),
                ino=entry_ino,
                name_offset=heap,
                name_bytes=len(name),
                type=8,
            )
        page[:32] = DIRECTORY_LEAF.pack(
            ino=ino, depth=depth, slots=len(names), live=len(names), heap=heap, prefix=prefix
        )
        self.store(pfn_to_offset(pfn), bytes(page))

    def root(self, names, extent=4):
        """Make a root directory of one leaf, in slot 1 of a metadata extent."""
        self.metadata(extent, {1: (1, Role.DIRECTORY_LEAF)})
        self.leaf(extent * 512 + 1, 1, names)
        self.directory(1, extent * 512 + 1, len(names))

    def own_metadata(self, pfn, ino, role):
        """Give a page of a metadata extent an owner word and count it."""
        extent = pfn_to_extent(pfn)
        self.word(extent * 512, pfn_to_slot(pfn), owner_word(ino, role))
        owner_page = os.pread(self.fd, PAGE_BYTES, extent_to_offset(extent))
        used = sum(1 for place in range(0, PAGE_BYTES, 8) if any(owner_page[place : place + 8]))
        self.head(extent, Kind.METADATA, used=used)

    def transaction(self, sequence, entries):
        """Write a journal slot; ``entries`` are (offset, length, kind, data)."""
        payload = b""
        for offset, length, kind, data in entries:
            payload += JOURNAL_ENTRY.pack(offset=offset, length=length, kind=kind)
            payload += data + bytes(-len(data) & 7)
        header = seal(
            JOURNAL_HEADER,
            sequence=sequence,
            payload_bytes=len(payload),
            entries=len(entries),
            payload_checksum=zlib.crc32(payload),
        )
        self.store(journal_slot_offset(sequence), header + payload)


@contextmanager
def daemon(path):
    """Hold the lock that a daemon holds, with the image mounted; end as a killed one."""
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mounted = int(MountState.MOUNTED).to_bytes(8, "little")
    os.pwrite(fd, mounted, CONTROL_OFFSET + CONTROL.offset_of["state"])
    try:
        yield
    finally:
        os.close(fd)


FIRST_FREE = 4
EXTENT = EXTENT_BYTES
