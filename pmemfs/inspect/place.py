"""Say in words what lies at a place of the device."""

from __future__ import annotations

from pmemfs.inspect.heads import kind_name
from pmemfs.inspect.reader import Reader
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    HEAD_BYTES,
    HEAD_TABLE_OFFSET,
    INODE_BYTES,
    INODES_PER_EXTENT,
    JOURNAL_OFFSET,
    JOURNAL_SLOT_BYTES,
    JOURNAL_SLOTS,
    PAGE_BYTES,
    PAGES_PER_EXTENT,
    WORD_BYTES,
    offset_to_extent,
    offset_to_pfn,
    pfn_to_slot,
)
from pmemfs.layout.records import CONTROL, HEAD, INODE, Kind, Record


def describe_offset(reader: Reader, offset: int) -> str:
    """Name the record and field at a byte offset of the device; never raises for a wild one."""
    geometry = reader.geometry
    if not 0 <= offset < geometry.device_bytes:
        return "beyond the device"
    head_place = offset - HEAD_TABLE_OFFSET
    if offset < EXTENT_BYTES:
        return _in_first_extent(offset)
    if head_place < geometry.head_table_bytes:
        return f"head of extent {head_place // HEAD_BYTES}{_field(HEAD, head_place % HEAD_BYTES)}"
    if offset < HEAD_TABLE_OFFSET + geometry.head_table_extents * EXTENT_BYTES:
        is_backup = offset >= geometry.backup_superblock_offset
        return "backup superblock" if is_backup else "unused rest of the head table"
    return _in_extent(reader, offset)


def _in_first_extent(offset: int) -> str:
    if offset < CONTROL_OFFSET:
        return "superblock"
    if offset < CONTROL_OFFSET + PAGE_BYTES:
        return "control page" + _field(CONTROL, offset - CONTROL_OFFSET)
    slot = (offset - JOURNAL_OFFSET) // JOURNAL_SLOT_BYTES
    return f"journal slot {slot}" if 0 <= slot < JOURNAL_SLOTS else "unused page"


def _field(record: Record, place: int) -> str:
    names = [name for name, start in record.offset_of.items() if start <= place]
    return f", {names[-1]}" if names and place < record.size_bytes else ""


def _in_extent(reader: Reader, offset: int) -> str:
    extent, place = offset_to_extent(offset), offset % EXTENT_BYTES
    head = reader.head(extent)
    kind = head["kind"]
    if kind == Kind.INODES:
        ino = head["index"] * INODES_PER_EXTENT + place // INODE_BYTES
        return f"inode {ino}{_field(INODE, place % INODE_BYTES)}"
    if kind in (Kind.SMALL, Kind.METADATA) and place < PAGE_BYTES:
        slot = place // WORD_BYTES
        return f"owner word of pfn {extent * PAGES_PER_EXTENT + slot} (extent {extent})"
    pfn = offset_to_pfn(offset)
    return f"pfn {pfn} (page {pfn_to_slot(pfn)} of {kind_name(kind)} extent {extent})"
