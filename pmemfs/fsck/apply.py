"""Store the repairs of a draft to the device, so that a kill at any store loses nothing.

Order of the stores:

1. the boot id of no host and persistence mode 0, flushed, then **publish** state "mounted": from
   here on a mount that finds the image checks it first, and refuses it while it is damaged;
2. the homes of the transaction that was left, flushed; **publish** "nothing to replay";
3. what transactions may not change (superblock copies, the control page, the rest of the head
   table), each flushed and fenced by itself; the copy of the superblock goes before it;
4. the repairs in order, in redo transactions as FORMAT.md has them: fresh pages, flushed; the
   slot, flushed; **publish** ``committed``, the commit point; the homes, flushed;
5. **publish** "nothing to replay", and if all is mended **publish** state "clean".

A repair that fits a journal slot is there whole or not at all. One that does not is cut in the
order of its stores (see `draft`), and what is there of it the next run takes further. Every
publish stands between two syncs, so that the same holds when the host goes down. The host
space for all of it is allocated before the first store: a full host changes nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from pmemfs.device import MappedDevice
from pmemfs.fsck.draft import Repair, Store, Way, payload_bytes
from pmemfs.fsck.journal import MAX_PAYLOAD_BYTES, Transaction, iter_stores
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    PAGE_BYTES,
    WORD_BYTES,
    journal_slot_offset,
)
from pmemfs.layout.records import (
    CONTROL,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    NOTHING_TO_REPLAY,
    EntryKind,
    MountState,
    seal,
)

NO_HOST = b"fsck interrupted"  # 16 bytes, the boot id of no host
_COMMITTED = CONTROL_OFFSET + CONTROL.offset_of["committed"]
_STATE = CONTROL_OFFSET + CONTROL.offset_of["state"]
_BOOT_ID = CONTROL_OFFSET + CONTROL.offset_of["boot_id"]  # followed by the persistence mode


def apply(
    image: Image,
    repairs: list[Repair],
    sequence: int,
    *,
    transaction: Transaction | None,
    complete: bool,
) -> None:
    """Store ``repairs`` to an image that is open for writing; durable on return.

    ``sequence`` is the number of the last transaction, ``transaction`` the one to replay first.
    Without ``complete`` the image stays marked as not clean. Raises `PmemfsError` with ENOSPC
    when the host is full; nothing has changed then.
    """
    device = image.device
    _back(device, repairs, transaction, sequence)
    _store(device, _BOOT_ID, NO_HOST + bytes(WORD_BYTES))
    _publish(device, _STATE, MountState.MOUNTED)
    if transaction is not None:
        for offset, data in iter_stores(image, transaction):
            _store(device, offset, data)
    _publish(device, _COMMITTED, sequence | NOTHING_TO_REPLAY)
    for offset, data, way in _each_store(repairs):
        if way == Way.PLAIN:
            _store(device, offset, data)
            device.fence()
            device.sync()
    for batch in _batches(repairs):
        sequence += 1
        _commit(device, batch, sequence)
    _publish(device, _COMMITTED, sequence | NOTHING_TO_REPLAY)
    if complete:
        _store(device, _BOOT_ID, bytes(len(NO_HOST)))
        _publish(device, _STATE, MountState.CLEAN)


def _each_store(repairs: Iterable[Repair]) -> Iterator[Store]:
    for repair in repairs:
        yield from repair.stores


def _store(device: MappedDevice, offset: int, data: bytes) -> None:
    device.store(offset, data)
    device.flush(offset, len(data))


def _publish(device: MappedDevice, offset: int, word: int) -> None:
    """Publish a word, between two syncs: the host may lose power, too."""
    device.sync()
    device.publish(offset, word)
    device.sync()


def _back(
    device: MappedDevice, repairs: list[Repair], transaction: Transaction | None, sequence: int
) -> None:
    device.back(CONTROL_OFFSET, PAGE_BYTES)
    for number, batch in enumerate(_batches(repairs), sequence + 1):
        slot_bytes = JOURNAL_HEADER.size_bytes + sum(map(payload_bytes, batch))
        device.back(journal_slot_offset(number), slot_bytes)
    for redo in transaction.redos if transaction else ():
        if redo.data is not None and redo.length:
            device.back(redo.offset, redo.length)
    for store in _each_store(repairs):
        device.back(store.offset, len(store.data))


def _batches(repairs: list[Repair]) -> Iterator[list[Store]]:
    """Iterate the stores of one transaction after the other.

    Fresh pages begin a new one: they may lie where the repair before has freed a page.
    """
    batch: list[Store] = []
    size = 0
    for repair in repairs:
        stores = [store for store in repair.stores if store.way != Way.PLAIN]
        whole = sum(map(payload_bytes, stores))
        fresh = any(store.way == Way.FRESH for store in stores)
        if batch and (fresh or size + whole > MAX_PAYLOAD_BYTES):
            yield batch
            batch, size = [], 0
        for store in stores:
            if size + payload_bytes(store) > MAX_PAYLOAD_BYTES:
                yield batch
                batch, size = [], 0
            batch.append(store)
            size += payload_bytes(store)
    if batch:
        yield batch


def _commit(device: MappedDevice, batch: list[Store], sequence: int) -> None:
    logged = []
    for store in batch:
        if store.way == Way.FRESH:
            _store(device, store.offset, store.data)
        else:
            logged.append(store)
    payload = b"".join(map(_entry, logged))
    header = seal(
        JOURNAL_HEADER,
        sequence=sequence,
        payload_bytes=len(payload),
        entries=len(logged),
        payload_checksum=zlib.crc32(payload),
    )
    _store(device, journal_slot_offset(sequence), header + payload)
    _publish(device, _COMMITTED, sequence)
    for store in logged:
        _store(device, store.offset, store.data)


def _entry(store: Store) -> bytes:
    length = len(store.data)
    entry = JOURNAL_ENTRY.pack(offset=store.offset, length=length, kind=EntryKind.STORE)
    return entry + store.data + bytes(-length % WORD_BYTES)
