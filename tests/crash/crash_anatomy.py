"""Name the parts of a recording, so that a seeded bug can say which of them it changes.

Parts of a commit, in order: ``data`` (file data and fresh pages, before the commit), ``slot``
(the journal), ``order`` (the fence before the commit word), ``commit`` (the word and its flush),
``settle`` (the fence behind it), ``home`` (what the entries of the transaction name). The others:
``live`` (the sequence word), ``table`` (split tables and transient halves of heads), ``discard``,
``fence``, ``other``. They are told apart by where they go, not by how many there are.
"""

from __future__ import annotations

from collections.abc import Callable

from crash_case import GEOMETRY

from pmemfs.device import Event
from pmemfs.journal.journal import COMMITTED_OFFSET
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    HEAD_DURABLE_BYTES,
    JOURNAL_OFFSET,
    JOURNAL_SLOT_BYTES,
    JOURNAL_SLOTS,
    extent_to_offset,
    journal_slot_offset,
)
from pmemfs.layout.records import (
    CONTROL,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    NOTHING_TO_REPLAY,
    EntryKind,
)

Part = tuple[str, Event]
Events = list[Event]

_SEQUENCE = CONTROL_OFFSET + CONTROL.offset_of["sequence"]
_JOURNAL_STOP = JOURNAL_OFFSET + JOURNAL_SLOTS * JOURNAL_SLOT_BYTES
_HEADS_STOP = GEOMETRY.head_offset(GEOMETRY.n_extents)
_RESERVE = extent_to_offset(GEOMETRY.reserve_extent)


def anatomy(events: Events) -> list[Part]:
    """Return each event with the name of its part."""
    parts: list[Part] = []
    homes: list[tuple[int, int]] = []
    log = bytearray(_JOURNAL_STOP - JOURNAL_OFFSET)
    for number, event in enumerate(events):
        following = events[number + 1] if number + 1 < len(events) else event
        before = parts[-1][0] if parts else ""
        if event.kind == "fence":
            is_order = following.kind == "store" and following.offset == COMMITTED_OFFSET
            part = "order" if is_order else "settle" if before == "commit" else "fence"
        elif event.kind in ("discard", "back", "sync"):
            part = event.kind
        else:
            part = _part_of(event, homes)
            if part == "slot" and event.kind == "store":
                start = event.offset - JOURNAL_OFFSET
                log[start : start + event.length] = event.data
            elif part == "commit" and event.kind == "store":
                homes = homes_of(log, int.from_bytes(event.data, "little")) or homes
        parts.append((part, event))
    return parts


def _part_of(event: Event, homes: list[tuple[int, int]]) -> str:
    offset = event.offset
    if offset == COMMITTED_OFFSET:
        return "commit"
    if JOURNAL_OFFSET <= offset < _JOURNAL_STOP:
        return "slot"
    if offset == _SEQUENCE:
        return "live"
    if any(low <= offset < high for low, high in homes):
        return "home"
    if CONTROL_OFFSET <= offset < JOURNAL_OFFSET:
        return "other"
    if GEOMETRY.head_offset(0) <= offset < _HEADS_STOP:
        return "table" if offset % 64 == HEAD_DURABLE_BYTES else "other"
    is_table = _RESERVE <= offset < extent_to_offset(GEOMETRY.reserve_extent + 1)
    return "table" if is_table else "data"


def homes_of(log: bytearray, committed: int) -> list[tuple[int, int]]:
    """Return the ``(start, stop)`` ranges that a transaction in the journal changes."""
    if committed & NOTHING_TO_REPLAY:
        return []
    slot = journal_slot_offset(committed) - JOURNAL_OFFSET
    homes = []
    position = slot + JOURNAL_HEADER.size_bytes
    for _ in range(JOURNAL_HEADER.unpack(log, slot)["entries"]):
        offset, length, kind = JOURNAL_ENTRY.struct.unpack_from(log, position)
        homes.append((offset, offset + length))
        stored = length + (-length & 7) if kind == EntryKind.STORE else 0
        position += JOURNAL_ENTRY.size_bytes + stored
    return homes


def without(events: Events, part: str, kind: str = "", *, only: int | None = None) -> Events:
    """Leave out the events of a part, of one kind if given; or ``only`` the n-th of them."""
    parts = anatomy(events)
    found = [n for n, (name, e) in enumerate(parts) if name == part and kind in ("", e.kind)]
    gone = set(found if only is None else [found[only]])
    return [event for number, event in enumerate(events) if number not in gone]


def moved(events: Events, part: str, before: str) -> Events:
    """Move the events of a part to stand before the first of another."""
    return _reordered(events, part, lambda names: names.index(before))


def delayed(events: Events, part: str, behind: str) -> Events:
    """Move the events of a part to stand behind the last of another."""
    return _reordered(events, part, lambda names: len(names) - names[::-1].index(behind))


def _reordered(events: Events, part: str, place: Callable[[list[str]], int]) -> Events:
    parts = anatomy(events)
    rest = [(name, event) for name, event in parts if name != part]
    at = place([name for name, _ in rest])
    moving = [event for name, event in parts if name == part]
    kept = [event for _, event in rest]
    return kept[:at] + moving + kept[at:]
