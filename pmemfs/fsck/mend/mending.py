"""What every mender is given: the draft, and the tables of the check that led to it.

Beside the tables there is the reverse map: owner words and heads say which pages belong to an
inode, whatever its map says. And there are free pages, for what has to be written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pmemfs.fsck.draft import Draft, Way
from pmemfs.fsck.host import is_present, read_present
from pmemfs.fsck.journal import MAX_PAYLOAD_BYTES
from pmemfs.fsck.passes import Checker
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    PAGE_BYTES,
    extent_to_offset,
    extent_to_pfn,
    offset_to_extent,
    pfn_to_extent,
    pfn_to_offset,
)
from pmemfs.layout.records import INODE, Kind
from pmemfs.layout.words import INO_MASK, owner_index, owner_ino

_SPARE_BYTES = 4 * PAGE_BYTES  # a page, its owner word and head, the inode, what frees nothing


class NoPageError(Exception):
    """There is no free page for what a repair has to write."""


@dataclass
class Belongings:
    """What owner words and heads give to one inode.

    ``small`` maps a page index to a pfn, ``whole`` a piece to an extent; ``pages`` has the pfns of
    metadata pages by role.
    """

    small: dict[int, int] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)
    pages: dict[int, list[int]] = field(default_factory=dict)


class Mending:
    """One call of a mender. ``now_ns`` stamps what is made anew."""

    def __init__(self, draft: Draft, checker: Checker, now_ns: int) -> None:
        self.draft = draft
        self.image = draft.image
        self.report = checker.report
        self.found = checker.report.subjects or {}  # subjects by check id
        self.now_ns = now_ns
        self.extents = checker.extents
        self.owners = checker.owners
        self.inodes = checker.inodes
        self.wanted: set[int] = set()  # pages, and of extents the first, that are not free
        self.named: dict[int, int] = {}  # such pages to the inode whose owner words will be needed
        self.given: set[int] = set()  # pages, and of extents the first, that have their owner
        self._free: dict[Kind, Iterator[int]] = {}

    def subjects(self, *checks: str) -> list[int]:
        """Return the subjects of these checks, in order."""
        found = (self.found.get(check, set()) for check in checks)
        return sorted(set().union(*found))

    def is_found(self, check: str, subject: int) -> bool:
        """Tell whether a check has found something about a subject."""
        return subject in self.found.get(check, ())

    def checks_of(self, subject: int) -> set[str]:
        """Return the checks that have found something about a subject."""
        return {check for check, subjects in self.found.items() if subject in subjects}

    # -- inodes ------------------------------------------------------------------------------

    def offset(self, ino: int) -> int:
        """Return the byte offset of an inode that has a slot."""
        return self.inodes.offset(ino)

    def record(self, ino: int) -> dict[str, Any]:
        """Return an inode as it is in the draft."""
        return INODE.unpack(self.image.device.view, self.offset(ino))

    def type_of(self, ino: int) -> int:
        """Return the type of an inode, 0 if it does not exist."""
        slot = self.inodes.slot(ino)
        return int(self.inodes.type[slot]) if slot >= 0 else 0

    def belongings(self, inos: Iterable[int]) -> dict[int, Belongings]:
        """Return what belongs to these inodes, in one pass over owner pages and heads."""
        found = {ino: Belongings() for ino in inos}
        wanted = np.array(sorted(found), np.uint64)
        for extents, words, _ in self.owners.batches():
            chosen = np.isin(words & np.uint64(INO_MASK), wanted) & (words != 0)
            chosen[:, 0] = False
            for row, slot in np.argwhere(chosen).tolist():
                extent, word = int(extents[row]), int(words[row, slot])
                pfn, index = extent_to_pfn(extent) + slot, owner_index(word)
                mine = found[owner_ino(word)]
                if self.extents.kind[extent] == Kind.SMALL:
                    mine.small.setdefault(index, pfn)
                else:
                    mine.pages.setdefault(index, []).append(pfn)
        whole = self.extents.of_kind(Kind.WHOLE)
        heads = self.image.heads
        for extent in whole[np.isin(heads["owner"][whole], wanted)].tolist():
            mine = found[int(heads["owner"][extent])]
            mine.whole.setdefault(int(heads["index"][extent]), extent)
        return found

    def read_page(self, pfn: int) -> memoryview:
        """Return a page; zeros where the host has a hole."""
        return read_present(self.image.device, pfn_to_offset(pfn), PAGE_BYTES)

    # -- free pages --------------------------------------------------------------------------

    def new_page(self, kind: Kind, word: int, data: bytes, reuse: list[int]) -> int:
        """Store a page that nothing refers to yet, and its owner word; return its pfn.

        Without a free page, one of ``reuse`` is taken and stored through the journal: these are
        in use, so the repair must stay within one transaction. Raises `NoPageError`.
        """
        pfn = next(self._free.setdefault(kind, self._free_pages(kind)), 0)
        if not pfn and (not reuse or self.draft.logged_bytes() > MAX_PAYLOAD_BYTES - _SPARE_BYTES):
            raise NoPageError
        way = Way.FRESH if pfn else Way.LOGGED
        pfn = pfn or reuse.pop()
        self.draft.put(pfn_to_offset(pfn), data.ljust(PAGE_BYTES, b"\0"), way)
        self.draft.set_owner(pfn, word)
        return pfn

    def free_page(self, pfn: int) -> None:
        """Clear an owner word; the last one of an extent returns the extent."""
        self.draft.set_owner(pfn, 0)
        extent = pfn_to_extent(pfn)
        if not self.draft.head(extent)["used"]:
            self.draft.put_head(extent, Kind.RETURNED)
            self.extents.kind[extent] = Kind.RETURNED

    def _free_pages(self, kind: Kind) -> Iterator[int]:
        for extents, words, rows in self.owners.batches():
            free = (words == 0) & ~self.owners.wanted(rows)
            free &= (self.extents.kind[extents] == kind)[:, None]
            free[:, 0] = False
            for row, slot in np.argwhere(free).tolist():
                pfn = extent_to_pfn(int(extents[row])) + slot
                if pfn not in self.wanted and self.extents.kind[extents[row]] == kind:
                    yield pfn
        for extent in self.free_extents():
            self.start_extent(extent, kind)
            yield from range(extent_to_pfn(extent) + 1, extent_to_pfn(extent + 1))

    def free_extents(self, *, empty: bool = False) -> Iterator[int]:
        """Iterate free extents, then returned ones; with ``empty`` those only without data."""
        claimed = {pfn_to_extent(pfn) for pfn in self.wanted}
        claimed |= set(np.flatnonzero(self.extents.disputed).tolist())
        free = [self.extents.of_kind(Kind.FREE), self.extents.of_kind(Kind.RETURNED)]
        for extent in map(int, np.concatenate(free)):
            if extent in claimed or self.extents.kind[extent] not in (Kind.FREE, Kind.RETURNED):
                continue
            start = extent_to_offset(extent)
            if empty and is_present(self.image.device, start, EXTENT_BYTES):
                continue
            yield extent

    def copy_extent(self, extent: int, data: bytes) -> None:
        """Store 2 MiB to a free extent."""
        for start in range(0, EXTENT_BYTES, PAGE_BYTES):
            page = data[start : start + PAGE_BYTES]
            self.draft.put(extent_to_offset(extent) + start, page, Way.FRESH)

    def extents_with_data(self, *kinds: Kind) -> Iterator[int]:
        """Iterate extents of these kinds with data on the host, behind the fixed ones."""
        device, reached = self.image.device, self.image.geometry.fixed_extents
        for low, high in device.iter_data(extent_to_offset(reached), device.size_bytes):
            first, stop = max(offset_to_extent(low), reached), offset_to_extent(high - 1) + 1
            for extent in range(first, stop):
                if self.extents.kind[extent] in kinds:
                    yield extent
            reached = max(stop, reached)

    def start_extent(self, extent: int, kind: Kind) -> None:
        """Make a free extent one of small or metadata pages, none of them owned."""
        self.draft.put(extent_to_offset(extent), bytes(PAGE_BYTES), Way.FRESH)
        self.draft.put_head(extent, kind)
        self.extents.kind[extent] = kind
