"""The view ``extent N``: the head, and page by page what its split table and owner page say."""

from __future__ import annotations

from typing import Any

import numpy as np

from pmemfs.errors import PmemfsError
from pmemfs.inspect.heads import (
    MAX_USED,
    TABLE_SHIFT,
    counted_kinds,
    is_current,
    is_sound,
    is_split,
    kind_name,
    read_table,
    split_mask,
)
from pmemfs.inspect.reader import Reader
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    HEAD_BYTES,
    INODES_PER_EXTENT,
    PAGE_DESCRIPTOR_BYTES,
    PAGES_PER_EXTENT,
    extent_to_offset,
    extent_to_pfn,
    pfn_to_extent,
)
from pmemfs.layout.records import HEAD, PAGE_DESCRIPTOR, Kind, PageFlag, Role
from pmemfs.layout.words import owner_index, owner_ino

ACCESS_SHIFT = 8
HEADS_PER_EXTENT = EXTENT_BYTES // HEAD_BYTES
ROLE_NAMES = {int(role): role.name.lower() for role in Role}


def validate_number(what: str, number: int, count: int) -> None:
    """Raise `PmemfsError` with EINVAL unless ``0 <= number < count``."""
    if not 0 <= number < count:
        raise PmemfsError(22, f"there is no {what} {number}: the device has 0 to {count - 1}")


def extent(reader: Reader, number: int) -> dict[str, Any]:
    """Return the head of one extent and, by its kind, its ``pages``, ``tables`` or ``inodes``.

    ``pages`` holds a row for each page that has an owner or a touched descriptor. Raises
    `PmemfsError` when there is no such extent.
    """
    validate_number("extent", number, reader.geometry.n_extents)
    head = reader.head(number)
    if not is_sound(head):
        reader.remark(f"the head of extent {number} has a wrong checksum")
    return {
        "extent": number,
        "kind": counted_kind_name(reader, number, head),
        "first_pfn": extent_to_pfn(number),
        "offset": extent_to_offset(number),
        "bytes": EXTENT_BYTES,
        "head": head,
        "checksum_valid": is_sound(head),
        "current": is_current(reader, head),
        "split": is_split(reader, head),
        "table_pfn": head["table"] >> TABLE_SHIFT if is_split(reader, head) else None,
        **_contents(reader, number, head),
    }


def counted_kind_name(reader: Reader, number: int, head: dict[str, Any]) -> str:
    """Return the kind of one extent as it counts today."""
    column = np.frombuffer(HEAD.pack(**head), HEAD.dtype)
    return kind_name(int(counted_kinds(reader, number, column)[0]))


def _contents(reader: Reader, number: int, head: dict[str, Any]) -> dict[str, Any]:
    kind = head["kind"]
    if kind in (Kind.SMALL, Kind.METADATA):
        return _pages(reader, number, head)
    if kind == Kind.DESCRIPTOR:
        return {"tables": _tables(reader, number)}
    if kind == Kind.INODES:
        return {"inodes": _inodes(head)}
    if kind == Kind.FIXED:
        return {"holds": _fixed(reader, number)}
    return {}


def _fixed(reader: Reader, number: int) -> str:
    if number == 0:
        return "superblock, control page and journal"
    first = (number - 1) * HEADS_PER_EXTENT
    last = min(first + HEADS_PER_EXTENT, reader.geometry.n_extents) - 1
    return f"heads of extents {first} to {last}"


def _inodes(head: dict[str, Any]) -> dict[str, int]:
    first = head["index"] * INODES_PER_EXTENT
    return {
        "chunk": head["index"],
        "first_ino": first,
        "last_ino": first + INODES_PER_EXTENT - 1,
        "in_use": head["used"],
        "ever_used": head["frontier"],
        "free_first": head["free_first"],
    }


def _pages(reader: Reader, number: int, head: dict[str, Any]) -> dict[str, Any]:
    words = reader.words(extent_to_pfn(number)).tolist()
    table = None
    if is_split(reader, head):
        table = read_table(reader, number, head["table"] >> TABLE_SHIFT)
    slots = range(1, PAGES_PER_EXTENT)
    pairs = ((slot, unpack_descriptor(table, slot) if table else None) for slot in slots)
    pages = [
        _page(reader, number, head["kind"], slot, words[slot], descriptor)
        for slot, descriptor in pairs
        if words[slot] or descriptor
    ]
    owned = sum(1 for page in pages if page["ino"])
    if owned != head["used"] or words[0]:
        reader.remark(
            f"extent {number}: the head counts {head['used']} pages, the owner page {owned}"
            + (", and word 0 is not zero" if words[0] else "")
        )
    return {"pages": pages, "free_pages": MAX_USED - owned}


def unpack_descriptor(table: bytes, slot: int) -> dict[str, Any] | None:
    """Return the page descriptor of a slot with its flags taken apart; None if not touched."""
    fields = PAGE_DESCRIPTOR.unpack(table, slot * PAGE_DESCRIPTOR_BYTES)
    if not fields["owner"]:
        return None
    return {
        "owner": fields["owner"],
        "dirty": bool(fields["state"] & PageFlag.DIRTY),
        "referenced": bool(fields["state"] & PageFlag.REFERENCED),
        "access_s": fields["state"] >> ACCESS_SHIFT,
        "wear": fields["wear"],
    }


def owner_fields(kind: int, word: int) -> dict[str, Any]:
    """Return ``ino`` and ``index`` or ``role`` of an owner word, all null for a free page."""
    if not word:
        return {"ino": None, "index": None, "role": None}
    index = owner_index(word)
    if kind == Kind.METADATA:
        role = ROLE_NAMES.get(index, f"unknown ({index})")
        return {"ino": owner_ino(word), "index": None, "role": role}
    return {"ino": owner_ino(word), "index": index, "role": None}


def _page(
    reader: Reader,
    number: int,
    kind: int,
    slot: int,
    word: int,
    descriptor: dict[str, Any] | None,
) -> dict[str, Any]:
    pfn = extent_to_pfn(number) + slot
    if descriptor and descriptor["owner"] != word:
        reader.remark(
            f"pfn {pfn}: the page descriptor says owner {descriptor['owner']:#x}, "
            f"the owner page {word:#x}"
        )
    return {
        "slot": slot,
        "pfn": pfn,
        "owner": word,
        **owner_fields(kind, word),
        "descriptor": descriptor,
    }


def _tables(reader: Reader, number: int) -> list[dict[str, int]]:
    found = []
    for first, heads in reader.iter_heads():
        places = np.flatnonzero(split_mask(reader, heads))
        for place, table in zip(places.tolist(), heads["table"][places].tolist()):
            if pfn_to_extent(table >> TABLE_SHIFT) == number:
                found.append({"table_pfn": table >> TABLE_SHIFT, "extent": first + place})
    return sorted(found, key=lambda row: row["table_pfn"])
