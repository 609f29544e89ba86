"""Check the transaction that an unclean image has left, and replay it in memory.

The checker's own replay, after FORMAT.md, "Journal": `read_transaction` validates the slot that
``Control.committed`` names, down to every entry, before `replay` stores the first byte. The
image is mapped copy-on-write, so these stores never reach the host file. A slot that is damaged
is not replayed at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from pmemfs.errors import InvariantError
from pmemfs.fsck.report import Finding
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    HEAD_TABLE_OFFSET,
    JOURNAL_SLOT_BYTES,
    WORD_BYTES,
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

MAX_PAYLOAD_BYTES = JOURNAL_SLOT_BYTES - JOURNAL_HEADER.size_bytes
MAX_ZERO_BYTES = 16 * EXTENT_BYTES  # of all entries of kind ZERO; more is damage


class Redo(NamedTuple):
    """One entry of a transaction: ``data`` is where the bytes to store lie; None for zeros."""

    offset: int
    length: int
    data: int | None


class Transaction(NamedTuple):
    """A whole and validated transaction."""

    sequence: int
    redos: list[Redo]


def read_transaction(image: Image) -> Generator[Finding, None, Transaction | None]:
    """Yield findings about the transaction to replay; return it if it is whole, else None."""
    committed = image.control()["committed"]
    if committed & NOTHING_TO_REPLAY:
        return None
    slot = journal_slot_offset(committed)
    header = JOURNAL_HEADER.unpack(image.device.view, slot)
    problem = _header_problem(image, slot, committed)
    if problem is not None:
        message = f"transaction {committed} cannot be replayed: {problem}"
        yield Finding("journal-header", message, slot)
        return None
    start = slot + JOURNAL_HEADER.size_bytes
    payload = image.device.view[start : start + header["payload_bytes"]]
    if zlib.crc32(payload) != header["payload_checksum"]:
        message = f"transaction {committed} cannot be replayed: wrong checksum of its entries"
        yield Finding("journal-payload", message, start)
        return None
    redos = yield from _read_entries(image, start, header)
    return None if redos is None else Transaction(committed, redos)


def _header_problem(image: Image, slot: int, committed: int) -> str | None:
    header = JOURNAL_HEADER.unpack(image.device.view, slot)
    if not is_sealed(JOURNAL_HEADER, image.device.view, slot):
        return "wrong checksum of the journal header"
    if header["sequence"] != committed:
        return f"its journal slot holds transaction {header['sequence']}"
    if header["payload_bytes"] > MAX_PAYLOAD_BYTES:
        return f"{header['payload_bytes']} bytes of entries do not fit into a journal slot"
    if any(header["reserved"]):
        return "reserved bytes of the journal header are not zero"
    return None


def _read_entries(
    image: Image, start: int, header: dict[str, Any]
) -> Generator[Finding, None, list[Redo] | None]:
    end = start + header["payload_bytes"]
    redos: list[Redo] = []
    position, zeros = start, 0
    for _ in range(header["entries"]):
        if position + JOURNAL_ENTRY.size_bytes > end:
            yield Finding("journal-entry", "the journal ends before its last entry", position)
            return None
        offset, length, kind = JOURNAL_ENTRY.struct.unpack_from(image.device.view, position)
        data = position + JOURNAL_ENTRY.size_bytes
        stored = -(-length // WORD_BYTES) * WORD_BYTES if kind == EntryKind.STORE else 0
        zeros += length if kind == EntryKind.ZERO else 0
        if kind not in tuple(EntryKind) or data + stored > end or zeros > MAX_ZERO_BYTES:
            message = f"journal entry {len(redos)} (kind {kind}, {length} bytes) is impossible"
            yield Finding("journal-entry", message, position)
            return None
        if not _is_home(image, offset, length):
            message = f"journal entry {len(redos)} would change {length} bytes at {offset:#x}, "
            yield Finding("journal-home", message + "which no transaction may change", position)
            return None
        redos.append(Redo(offset, length, data if kind == EntryKind.STORE else None))
        position = data + stored
    if position != end:
        yield Finding("journal-entry", "the journal goes on behind its last entry", position)
        return None
    return redos


def _is_home(image: Image, offset: int, length: int) -> bool:
    """Tell whether transactions may change this range."""
    geometry = image.geometry
    orphans = CONTROL_OFFSET + CONTROL.offset_of["orphan_first"]
    homes = (
        (orphans, orphans + WORD_BYTES),
        (HEAD_TABLE_OFFSET, HEAD_TABLE_OFFSET + geometry.head_table_bytes),
        (extent_to_offset(geometry.first_inode_extent), geometry.device_bytes),
    )
    return any(low <= offset and offset + length <= high for low, high in homes)


def replay(image: Image, transaction: Transaction) -> None:
    """Store the homes of a transaction into the private mapping; the host file stays."""
    if not image.device.private:
        raise InvariantError("fsck replays into a private mapping only")
    for offset, data in iter_stores(image, transaction):
        image.device.store(offset, data)


def iter_stores(image: Image, transaction: Transaction) -> Iterator[tuple[int, bytes]]:
    """Iterate what a transaction stores, as ``(offset, bytes)``; holes need no zeros."""
    for offset, length, data in transaction.redos:
        if data is None:
            for low, high in list(image.device.iter_data(offset, offset + length)):
                yield low, bytes(high - low)
        else:
            yield offset, bytes(image.device.view[data : data + length])
