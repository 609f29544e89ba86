"""The view ``journal``: what is committed, whether a mount would replay it, and both slots."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from pmemfs.inspect.place import describe_offset
from pmemfs.inspect.reader import Reader
from pmemfs.layout.geometry import JOURNAL_OFFSET, JOURNAL_SLOT_BYTES, JOURNAL_SLOTS
from pmemfs.layout.records import (
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    NOTHING_TO_REPLAY,
    EntryKind,
    is_sealed,
)

ENTRY_NAMES = {int(kind): kind.name.lower() for kind in EntryKind}

_MAX_PAYLOAD_BYTES = JOURNAL_SLOT_BYTES - JOURNAL_HEADER.size_bytes


def journal(reader: Reader) -> dict[str, Any]:
    """Return ``committed``, ``nothing_to_replay``, ``replay_needed`` and the two ``slots``.

    With a daemon alive nothing needs replay, whatever is committed: its homes are stored.
    """
    committed = reader.control["committed"] & ~NOTHING_TO_REPLAY
    return {
        "committed": committed,
        "nothing_to_replay": not reader.has_replay,
        "replay_needed": reader.has_replay and not reader.live,
        "slot_bytes": JOURNAL_SLOT_BYTES,
        "slots": [_slot(reader, slot, committed) for slot in range(JOURNAL_SLOTS)],
    }


def _slot(reader: Reader, slot: int, committed: int) -> dict[str, Any]:
    offset = JOURNAL_OFFSET + slot * JOURNAL_SLOT_BYTES
    data = reader.read(offset, JOURNAL_SLOT_BYTES)
    header = JOURNAL_HEADER.unpack(data)
    del header["reserved"]
    valid = is_sealed(JOURNAL_HEADER, data)
    is_committed = valid and header["sequence"] == committed and committed % JOURNAL_SLOTS == slot
    payload = data[JOURNAL_HEADER.size_bytes :][: header["payload_bytes"]]
    payload_valid = valid and zlib.crc32(payload) == header["payload_checksum"]
    return {
        "slot": slot,
        "offset": offset,
        "empty": not any(data[: JOURNAL_HEADER.size_bytes]),
        "header": header,
        "header_valid": valid,
        "payload_valid": payload_valid,
        "is_committed": is_committed,
        "entries": list(_iter_entries(reader, slot, header, payload)) if payload_valid else [],
    }


# Stops at the first entry that does not fit, with a remark.
def _iter_entries(
    reader: Reader, slot: int, header: dict[str, Any], payload: bytes
) -> Iterator[dict[str, Any]]:
    place = 0
    for number in range(header["entries"]):
        problem = _entry_problem(payload, place)
        if problem:
            reader.remark(f"journal slot {slot}, entry {number} of {header['entries']}: {problem}")
            return
        entry = JOURNAL_ENTRY.unpack(payload, place)
        home = describe_offset(reader, entry["offset"])
        yield {**entry, "kind": ENTRY_NAMES[entry["kind"]], "home": home}
        place += _entry_bytes(entry)


def _entry_bytes(entry: dict[str, Any]) -> int:
    body = (entry["length"] + 7) & ~7 if entry["kind"] == EntryKind.STORE else 0
    return JOURNAL_ENTRY.size_bytes + body


def _entry_problem(payload: bytes, place: int) -> str | None:
    if place + JOURNAL_ENTRY.size_bytes > len(payload):
        return "the payload ends before it"
    entry = JOURNAL_ENTRY.unpack(payload, place)
    if entry["kind"] not in ENTRY_NAMES:
        return f"unknown kind {entry['kind']}"
    if place + _entry_bytes(entry) > len(payload):
        return "the payload ends within it"
    return None
