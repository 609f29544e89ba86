"""Replay the one transaction that a crash may have left without its home stores.

Idempotent: it stores the same bytes to the same places and publishes "nothing to replay" only
after they are durable, so a crash during recovery is recovered by the next.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError
from pmemfs.journal.journal import COMMITTED_OFFSET, MAX_PAYLOAD_BYTES, store_zeros
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    HEAD_TABLE_OFFSET,
    WORD_BYTES,
    Geometry,
    extent_to_offset,
    journal_slot_offset,
)
from pmemfs.layout.records import (
    CONTROL,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    NOTHING_TO_REPLAY,
    EntryKind,
    is_sealed,
)

_KINDS = tuple(EntryKind)
_ORPHANS_OFFSET = CONTROL_OFFSET + CONTROL.offset_of["orphan_first"]


class Replay(NamedTuple):
    """What a recovery did: transaction number, entries and bytes stored."""

    sequence: int
    entries: int
    stored_bytes: int


def read_transaction(device: MappedDevice, sequence: int) -> list[tuple[int, int, bytes | None]]:
    """Return the entries ``(offset, length, data or None for zeros)`` of a committed transaction.

    Raises `DamagedImageError` when the slot does not hold it whole.
    """
    slot = journal_slot_offset(sequence)
    view = device.view
    header = JOURNAL_HEADER.unpack(view, slot)
    size = header["payload_bytes"]
    if not is_sealed(JOURNAL_HEADER, view, slot) or header["sequence"] != sequence:
        raise DamagedImageError(f"the journal has lost its committed transaction {sequence}", slot)
    payload = view[slot + JOURNAL_HEADER.size_bytes :][: min(size, MAX_PAYLOAD_BYTES)]
    if size > MAX_PAYLOAD_BYTES or zlib.crc32(payload) != header["payload_checksum"]:
        raise DamagedImageError(f"transaction {sequence} in the journal is damaged", slot)
    entries: list[tuple[int, int, bytes | None]] = []
    position = 0
    for _ in range(header["entries"]):
        if position + JOURNAL_ENTRY.size_bytes > size:
            raise DamagedImageError(f"transaction {sequence} ends before its last entry", slot)
        offset, length, kind = JOURNAL_ENTRY.struct.unpack_from(payload, position)
        position += JOURNAL_ENTRY.size_bytes
        data = None
        if kind == EntryKind.STORE:
            data = bytes(payload[position : position + length])
            position += length + (-length & 7)
        if position > size or kind not in _KINDS or not _is_home(device, offset, length):
            raise DamagedImageError(
                f"transaction {sequence} in the journal would change what no transaction may", slot
            )
        entries.append((offset, length, data))
    return entries


def _is_home(device: MappedDevice, offset: int, length: int) -> bool:
    """Tell whether transactions may change this range of the device."""
    geometry = Geometry.of_size(device.size_bytes)
    homes = (
        (_ORPHANS_OFFSET, _ORPHANS_OFFSET + WORD_BYTES),
        (HEAD_TABLE_OFFSET, HEAD_TABLE_OFFSET + geometry.head_table_bytes),
        (extent_to_offset(geometry.first_inode_extent), geometry.device_bytes),
    )
    return any(low <= offset and offset + length <= high for low, high in homes)


def recover(device: MappedDevice) -> Replay | None:
    """Redo the last committed transaction, if its homes may be missing; return what was done.

    All of it is durable on return.
    """
    committed = device.words[COMMITTED_OFFSET >> 3]
    if committed & NOTHING_TO_REPLAY:
        return None
    entries = read_transaction(device, committed)
    for offset, length, data in entries:
        device.back(offset, max(length, 1))
        if data is None:
            store_zeros(device, offset, length)
        else:
            device.store(offset, data)
            device.flush(offset, max(length, 1))
    device.publish(COMMITTED_OFFSET, committed | NOTHING_TO_REPLAY)
    return Replay(committed, len(entries), sum(length for _, length, _ in entries))
