"""Commit transactions.

Order of the stores of one commit, transaction number ``s``:

1. fresh pages, to their own places, which no committed state refers to; flush;
2. header and entries, to journal slot ``s % 2``; flush;
3. **publish** ``Control.committed = s``. Its first fence makes durable what was flushed before:
   file data, fresh pages, the slot, and the homes of transaction ``s - 1``. The word is the
   commit point, durable on return;
4. the entries, to their homes; flush. No fence: step 3 of the next commit, or `retire`, has one.

So slot ``s % 2`` still in use by ``s - 2`` is never overwritten before the homes of ``s - 2`` are
durable, and a crash replays at most the one transaction that ``committed`` names.

Replaying twice is harmless as long as bytes that a transaction stores change through transactions
only. File data does not keep that rule, so a transaction that zeroes file data is *retired*
before it returns: its homes are fenced and ``committed`` gets bit 63, nothing to replay.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from pmemfs.device import MappedDevice
from pmemfs.errors import InvariantError
from pmemfs.journal.sequence import SequenceWord
from pmemfs.journal.transaction import Transaction
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    JOURNAL_SLOT_BYTES,
    PAGE_BYTES,
    PAGE_SHIFT,
    journal_slot_offset,
)
from pmemfs.layout.records import (
    CONTROL,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    NOTHING_TO_REPLAY,
    EntryKind,
)

COMMITTED_OFFSET = CONTROL_OFFSET + CONTROL.offset_of["committed"]
MAX_PAYLOAD_BYTES = JOURNAL_SLOT_BYTES - JOURNAL_HEADER.size_bytes

_pack_entry = JOURNAL_ENTRY.struct.pack
_pack_header = JOURNAL_HEADER.struct.pack
_ZEROS = bytes(1 << 16)


def store_zeros(device: MappedDevice, offset: int, length: int) -> None:
    """Store zeros over a range and flush them."""
    for start in range(offset, offset + length, len(_ZEROS)):
        device.store(start, _ZEROS[: min(len(_ZEROS), offset + length - start)])
    device.flush(offset, length)


class Journal:
    """The journal of one device. ``sequence`` is the number of the last commit."""

    def __init__(self, device: MappedDevice, live: SequenceWord) -> None:
        committed = device.words[COMMITTED_OFFSET >> 3]
        self._device = device
        self._live = live
        self.sequence = committed & ~NOTHING_TO_REPLAY
        self._retired = bool(committed & NOTHING_TO_REPLAY)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Give a transaction; commit it at the end of the block, abort it on an exception.

        Everything in it is durable on return.
        """
        tx = Transaction(self._device)
        try:
            yield tx
            self._commit(tx)
        except BaseException:
            tx.abort()
            raise
        for action in tx.after:
            action()

    def retire(self) -> None:
        """Make the homes of the last transaction durable and leave nothing to replay."""
        if not self._retired:
            self._device.publish(COMMITTED_OFFSET, self.sequence | NOTHING_TO_REPLAY)
            self._retired = True

    def _commit(self, tx: Transaction) -> None:
        if tx.is_empty:
            return
        device = self._device
        stores = [*tx.records.items(), *tx.stores]
        payload = self._payload(stores, tx.zeros)
        for offset, data in stores:
            device.back(offset, len(data))
        for pfn, page in tx.fresh.items():
            device.back(pfn << PAGE_SHIFT, PAGE_BYTES)
            device.store(pfn << PAGE_SHIFT, page)
            device.flush(pfn << PAGE_SHIFT, PAGE_BYTES)
        sequence = self.sequence + 1
        slot = journal_slot_offset(sequence)
        header = _pack_header(
            sequence, len(payload), len(stores) + len(tx.zeros), zlib.crc32(payload), b"", 0
        )[:-4]
        header += zlib.crc32(header).to_bytes(4, "little")
        device.store(slot, header + payload)
        device.flush(slot, len(header) + len(payload))
        device.publish(COMMITTED_OFFSET, sequence)
        self.sequence = sequence
        self._retired = False
        self._live.enter()
        for offset, data in stores:
            device.store(offset, data)
            device.flush(offset, len(data))
        for offset, length in tx.zeros:
            store_zeros(device, offset, length)
        self._live.leave()
        if tx.zeros:
            self.retire()

    @staticmethod
    def _payload(stores: list[tuple[int, bytes]], zeros: list[tuple[int, int]]) -> bytes:
        parts = []
        for offset, data in stores:
            length = len(data)
            parts.append(_pack_entry(offset, length, EntryKind.STORE))
            parts.append(data)
            if length & 7:
                parts.append(bytes(-length & 7))
        parts += [_pack_entry(offset, length, EntryKind.ZERO) for offset, length in zeros]
        payload = b"".join(parts)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InvariantError(
                f"a transaction of {len(payload)} bytes exceeds the journal slot "
                f"({MAX_PAYLOAD_BYTES} bytes)"
            )
        return payload
