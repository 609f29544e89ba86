"""Every field of every record, all of its bits set and the checksum right: seen, or meant so."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import fsck_image as fi
from fsck_image import HandImage

from pmemfs.errors import PmemfsError
from pmemfs.layout.geometry import CONTROL_OFFSET, HEAD_DURABLE_BYTES, inode_offset, pfn_to_offset
from pmemfs.layout.record import Record
from pmemfs.layout.records import CONTROL, DIRECTORY_LEAF, DIRECTORY_SLOT, HEAD, INODE, SUPERBLOCK

Seal = Callable[[bytes], bytes]

# What may say anything: who and when, and what nobody believes after a restart.
FREE_FIELDS = {
    SUPERBLOCK.name: {"compat", "ro_compat", "created_ns", "uuid"},
    CONTROL.name: {"sequence", "boot_id", "mounted_ns"},
    HEAD.name: {"table", "access_s", "wear"},
    INODE.name: {"uid", "gid", "atime_ns", "mtime_ns", "ctime_ns", "btime_ns"},
    DIRECTORY_LEAF.name: set(),
    DIRECTORY_SLOT.name: set(),
}
NO_FREE_FIELDS = {fi.FREED_A, fi.FREED_B}  # a freed inode is zeros


def as_it_is(data: bytes) -> bytes:
    return data


def seal_end(data: bytes) -> bytes:
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def seal_head(data: bytes) -> bytes:
    durable, rest = data[:HEAD_DURABLE_BYTES], data[HEAD_DURABLE_BYTES:]
    return (seal_end(durable) if durable[0] else durable) + rest


def places(image: HandImage) -> Iterator[tuple[Record, list[int], Seal, bool]]:
    """Iterate ``(record, offsets of it and its copies, seal, whether it has free fields)``."""
    yield SUPERBLOCK, [0, image.geometry.backup_superblock_offset], seal_end, True
    yield CONTROL, [CONTROL_OFFSET], as_it_is, True
    for extent in range(fi.STALE + 2):
        yield HEAD, [image.geometry.head_offset(extent)], seal_head, True
    for ino in range(fi.ROOT, fi.FRONTIER):
        offset = inode_offset(fi.INODES, ino)
        yield INODE, [offset], seal_end, ino not in NO_FREE_FIELDS
    for pfn in (fi.ROOT_LEAF, fi.WIDE_LOW):
        yield DIRECTORY_LEAF, [pfn_to_offset(pfn)], as_it_is, True
        yield DIRECTORY_SLOT, [pfn_to_offset(pfn) + DIRECTORY_LEAF.size_bytes], as_it_is, True


def is_seen(image: HandImage) -> bool:
    try:
        return not image.check().is_clean
    except PmemfsError:
        return True


def test_a_field_with_all_bits_set_is_seen(image: HandImage) -> None:
    for record, offsets, seal, has_free in places(image):
        whole = image.peek(offsets[0], record.size_bytes)
        unseen = set()
        for field in record.fields:
            at = record.offset_of[field.name]
            ones = whole[:at] + b"\xff" * field.size_bytes + whole[at + field.size_bytes :]
            for offset in offsets:
                image.poke(offset, ones if field.name == "checksum" else seal(ones))
            if not is_seen(image):
                unseen.add(field.name)
        for offset in offsets:
            image.poke(offset, whole)
        assert unseen == (FREE_FIELDS[record.name] if has_free else set()), (record.name, offsets)
    assert image.check().is_clean
