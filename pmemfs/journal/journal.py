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

import errno
import zlib

from pmemfs.device import MappedDevice
from pmemfs.errors import InvariantError, PmemfsError
from pmemfs.journal.sequence import SequenceWord
from pmemfs.journal.transaction import Transaction
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    JOURNAL_SLOT_BYTES,
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
_STORE = int(EntryKind.STORE)
_PADDING = [bytes(n) for n in range(8)]
_ZEROS = bytes(1 << 16)


def store_zeros(device: MappedDevice, offset: int, length: int) -> None:
    """Store zeros over a range and flush them."""
    for start in range(offset, offset + length, len(_ZEROS)):
        device.store(start, _ZEROS[: min(len(_ZEROS), offset + length - start)])
    device.flush(offset, length)


class Journal:
    """The journal of one device. ``sequence`` is the number of the last commit.

    ``failure`` says what went wrong, once memory and device may disagree: a commit has failed
    half-way (a recovery will do it whole or not at all), or an abort could not undo what memory
    keeps. Nothing may be committed on top of that.
    """

    def __init__(self, device: MappedDevice, live: SequenceWord) -> None:
        committed = device.words[COMMITTED_OFFSET >> 3]
        self._device = device
        self._live = live
        self.sequence = committed & ~NOTHING_TO_REPLAY
        self._retired = bool(committed & NOTHING_TO_REPLAY)
        self._stopped = False
        self.failure: str | None = None

    def transaction(self) -> Transaction:
        """Give a transaction for a ``with``: committed at its end, aborted on an exception.

        Everything in it is durable when the block has ended. Raises EROFS after `stop`.
        """
        if self._stopped:
            raise PmemfsError(errno.EROFS, "read-only since damage was found")
        return Transaction(self._device, self._commit, self._fail)

    def stop(self) -> None:
        """Begin no transaction any more."""
        self._stopped = True
        self._live.settle()

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
        device.back_all(stores)
        for offset, length in tx.zeros:
            device.back(offset, length)
        if tx.fresh:
            self._store_fresh(tx.fresh)
        sequence = self.sequence + 1
        count = len(stores) + len(tx.zeros)
        header = _pack_header(sequence, len(payload), count, zlib.crc32(payload), b"", 0)[:-4]
        slot = b"".join((header, zlib.crc32(header).to_bytes(4, "little"), payload))
        device.store_all(((journal_slot_offset(sequence), slot),))
        try:
            self._publish(sequence, stores, tx.zeros)
        except BaseException as error:
            self._fail(f"transaction {sequence} failed half-way: {error}")
            raise

    def _fail(self, reason: str) -> None:
        self.failure = reason

    def _publish(
        self, sequence: int, stores: list[tuple[int, bytes]], zeros: list[tuple[int, int]]
    ) -> None:
        """Do steps 3 and 4. If this fails, memory and device may disagree: see `failure`."""
        device = self._device
        device.publish(COMMITTED_OFFSET, sequence)
        self.sequence = sequence
        self._retired = False
        self._live.enter()
        device.store_all(stores)
        for offset, length in zeros:
            store_zeros(device, offset, length)
        self._live.leave()
        if zeros:
            self.retire()

    def _store_fresh(self, pages: dict[int, bytearray]) -> None:
        ranges = [(pfn << PAGE_SHIFT, page) for pfn, page in pages.items()]
        self._device.back_all(ranges)
        self._device.store_all(ranges)

    @staticmethod
    def _payload(stores: list[tuple[int, bytes]], zeros: list[tuple[int, int]]) -> bytes:
        parts: list[bytes] = []
        for offset, data in stores:
            length = len(data)
            parts += (_pack_entry(offset, length, _STORE), data, _PADDING[-length & 7])
        parts += [_pack_entry(offset, length, EntryKind.ZERO) for offset, length in zeros]
        payload = b"".join(parts)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InvariantError(
                f"a transaction of {len(payload)} bytes exceeds the journal slot "
                f"({MAX_PAYLOAD_BYTES} bytes)"
            )
        return payload
