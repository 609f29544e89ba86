"""The owner pages of small and metadata extents, and the claims that maps lay on their pages.

Invariant checked: a page has at most one owner, and owner word and map agree. A map *claims* a
page with the owner word it expects there; a claim succeeds where the word is that one. After
all maps were walked, a word that nobody claimed belongs to no map. Since a claim names inode and
place, no two maps can both succeed on one page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.heads import ExtentTable, Tick
from pmemfs.fsck.host import is_present, read_present
from pmemfs.fsck.inodes import InodeTable
from pmemfs.fsck.report import Finding, kind_name
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    EXTENT_PAGE_SHIFT,
    PAGE_BYTES,
    PAGES_PER_EXTENT,
    WORD_BYTES,
    extent_to_offset,
    extent_to_pfn,
    pfn_to_extent,
    pfn_to_offset,
    pfn_to_slot,
)
from pmemfs.layout.records import Kind, Role
from pmemfs.layout.words import INO_MASK, owner_index, owner_ino, owner_word

BATCH_EXTENTS = 256
_SLOT_MASK = PAGES_PER_EXTENT - 1


class OwnerPages:
    """Owner words by pfn, and which of them a map has claimed.

    ``extents`` has the numbers of the small and metadata extents. An owner page that does not
    exist on the host reads as zeros.
    """

    def __init__(self, image: Image, extents: ExtentTable) -> None:
        self.device = image.device
        self.kind = extents.kind
        self.disputed_extents = extents.disputed
        self.n_pages = image.geometry.n_pages
        self.extents = extents.of_kind(Kind.SMALL, Kind.METADATA)
        self.used = np.array(image.heads["used"][self.extents])
        self._row = np.zeros(image.geometry.n_extents, np.int32)
        self._row[self.extents] = np.arange(len(self.extents))
        self._claimed = np.zeros((len(self.extents), PAGES_PER_EXTENT), np.bool_)
        self._disputed = np.zeros_like(self._claimed)
        self._present = np.array(
            [
                is_present(image.device, extent_to_offset(extent), PAGE_BYTES)
                for extent in self.extents.tolist()
            ],
            np.bool_,
        )
        pages = np.frombuffer(image.device.view[:], "<u8")
        self._words = pages.reshape(image.geometry.n_extents, -1)

    def batches(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64], slice]]:
        """Iterate ``(extents, words, rows)``; words have the shape ``(batch, 512)``."""
        for start in range(0, len(self.extents), BATCH_EXTENTS):
            rows = slice(start, start + BATCH_EXTENTS)
            extents, present = self.extents[rows], self._present[rows]
            words = np.zeros((len(extents), PAGES_PER_EXTENT), np.uint64)
            words[present] = self._words[extents[present], :PAGES_PER_EXTENT]
            yield extents, words, rows

    def unclaimed(self, words: NDArray[np.uint64], rows: slice) -> NDArray[np.bool_]:
        """Tell which words of a batch are set and belong to no map; word 0 never is."""
        left = (words != 0) & ~self._claimed[rows]
        left[:, 0] = False
        return left

    def wanted(self, rows: slice) -> NDArray[np.bool_]:
        """Tell which pages of a batch a map claims, in vain or not."""
        wanted: NDArray[np.bool_] = self._claimed[rows] | self._disputed[rows]
        return wanted

    def is_claimed(self, pfn: int) -> bool:
        """Tell whether a map has claimed a page of a small or metadata extent."""
        extent = pfn_to_extent(pfn)
        return self._has(extent) and bool(self._claimed[self._row[extent], pfn_to_slot(pfn)])

    def _has(self, extent: int) -> bool:
        """Tell whether an extent is in the table: it may have become small or metadata since."""
        return bool(len(self.extents)) and self.extents[self._row[extent]] == extent

    def words_at(self, pfns: NDArray[np.int64], kind: Kind) -> NDArray[np.uint64]:
        """Return the owner words of pages; 0 where the page is in no extent of this kind."""
        words = np.zeros(len(pfns), np.uint64)
        good = (pfns >= 0) & (pfns < self.n_pages) & (pfns & _SLOT_MASK != 0)
        places = np.flatnonzero(good)
        places = places[self.kind[pfns[places] >> EXTENT_PAGE_SHIFT] == kind]
        places = places[self._present[self._row[pfns[places] >> EXTENT_PAGE_SHIFT]]]
        found = pfns[places]
        words[places] = self._words[found >> EXTENT_PAGE_SHIFT, found & _SLOT_MASK]
        return words

    def claim(
        self, pfns: NDArray[np.int64], owners: NDArray[np.uint64], kind: Kind
    ) -> NDArray[np.bool_]:
        """Claim pages for the owner words expected there; tell which claims succeed."""
        success = self.words_at(pfns, kind) == owners
        claimed = pfns[success]
        self._claimed[self._row[claimed >> EXTENT_PAGE_SHIFT], claimed & _SLOT_MASK] = True
        if len(claimed) < len(pfns):
            self._dispute(pfns[~success])
        return success

    def _dispute(self, pfns: NDArray[np.int64]) -> None:
        """Remember pages that a map claims in vain: they are not free for a repair."""
        pfns = pfns[(pfns >= 0) & (pfns < self.n_pages)]
        extents = pfns >> EXTENT_PAGE_SHIFT
        here = np.isin(self.kind[extents], (Kind.SMALL, Kind.METADATA))
        self._disputed[self._row[extents[here]], pfns[here] & _SLOT_MASK] = True
        self.disputed_extents[extents[~here]] = True

    def claim_metadata(self, pfn: int, ino: int, role: Role) -> Finding | None:
        """Claim one metadata page; return what is wrong, or None. No page is claimed twice."""
        finding = self._claim_metadata(pfn, ino, role)
        if finding is not None and pfn < self.n_pages:
            self._dispute(np.array([pfn], np.int64))
        return finding

    def _claim_metadata(self, pfn: int, ino: int, role: Role) -> Finding | None:
        wanted = owner_word(ino, role)
        if not 0 <= pfn < self.n_pages or self.kind[pfn_to_extent(pfn)] != Kind.METADATA:
            return self.mismatch(pfn, wanted, Kind.METADATA)
        row, slot = int(self._row[pfn_to_extent(pfn)]), pfn_to_slot(pfn)
        if self.word_at(pfn) != wanted:
            return self.mismatch(pfn, wanted, Kind.METADATA)
        if self._claimed[row, slot]:
            message = f"inode {ino} refers to its {role_name(role)} page {pfn} twice"
            return Finding("page-twice", message, pfn_to_offset(pfn), ino)
        self._claimed[row, slot] = True
        return None

    def word_at(self, pfn: int) -> int:
        """Return the owner word of a page of a small or metadata extent."""
        extent, slot = pfn_to_extent(pfn), pfn_to_slot(pfn)
        if slot == 0 or (self._has(extent) and not self._present[self._row[extent]]):
            return 0
        return int(self._words[extent, slot])

    def read_page(self, pfn: int) -> memoryview:
        """Return a page whose claim succeeded; zeros where the host has a hole."""
        return read_present(self.device, pfn_to_offset(pfn), PAGE_BYTES)

    def mismatch(self, pfn: int, wanted: int, kind: Kind) -> Finding:
        """Return the finding for a claim that failed."""
        ino = owner_ino(wanted)
        who = f"inode {ino} has page {pfn} as {_describe(wanted, kind)}, but "
        if not 0 <= pfn < self.n_pages:
            return Finding("map-range", who + "the device has no such page", None, ino)
        found = self.kind[pfn_to_extent(pfn)]
        if found != kind:
            why = f"that is in a {kind_name(int(found))} extent"
            return Finding("map-extent", who + why, pfn_to_offset(pfn), ino)
        if pfn_to_slot(pfn) == 0:
            return Finding("map-owner", who + "that is an owner page", pfn_to_offset(pfn), ino)
        word = self.word_at(pfn)
        why = (
            f"its owner is {_describe(word, kind)} of inode {owner_ino(word)}"
            if word
            else ("that page is free")
        )
        return Finding("map-owner", who + why, owner_word_offset(pfn), ino)


def owner_word_offset(pfn: int) -> int:
    """Byte offset of the owner word of a page."""
    return extent_to_offset(pfn_to_extent(pfn)) + pfn_to_slot(pfn) * WORD_BYTES


def role_name(role: int) -> str:
    """Return the name of a role for people, or its number."""
    try:
        return Role(role).name.lower().replace("_", " ")
    except ValueError:
        return f"role {role}"


def _describe(word: int, kind: Kind) -> str:
    if kind == Kind.METADATA:
        return f"{role_name(owner_index(word))} page"
    return f"page {owner_index(word)}"


def check_owner_pages(owners: OwnerPages, tick: Tick) -> Iterator[Finding]:
    """Yield owner words that cannot be, and heads that count them wrongly."""
    for extents, words, rows in owners.batches():
        tick(rows.start, len(owners.extents))
        kinds = owners.kind[extents]
        yield from _check_words(extents, words, kinds)
        counts = np.count_nonzero(words, axis=1)
        used = owners.used[rows]
        for place in np.flatnonzero(counts != used).tolist():
            extent = int(extents[place])
            message = (
                f"the head of extent {extent} counts {used[place]} pages in use, "
                f"its owner page has {counts[place]}"
            )
            yield Finding("owner-count", message, extent_to_offset(extent), extent)


def _check_words(
    extents: NDArray[np.int64], words: NDArray[np.uint64], kinds: NDArray[np.uint8]
) -> Iterator[Finding]:
    roles = words >> np.uint64(32)
    wrong = (words != 0) & (words & np.uint64(INO_MASK) == 0)
    wrong |= (
        (kinds == Kind.METADATA)[:, None]
        & (words != 0)
        & ((roles < min(Role)) | (roles > max(Role)))
    )
    wrong[:, 0] |= words[:, 0] != 0
    for row, slot in np.argwhere(wrong).tolist():
        extent, word = int(extents[row]), int(words[row, slot])
        message = f"owner word {slot} of extent {extent} is {word:#x}, which cannot be"
        offset = owner_word_offset(extent_to_pfn(extent) + slot)
        yield Finding("owner-word", message, offset, extent)


def check_unclaimed(
    image: Image, extents: ExtentTable, owners: OwnerPages, inodes: InodeTable, tick: Tick
) -> Iterator[Finding]:
    """Yield pages and whole extents that say they belong to a file whose map has them not."""
    for numbers, words, rows in owners.batches():
        tick(rows.start, len(owners.extents))
        left = owners.unclaimed(words, rows)
        left &= words & np.uint64(INO_MASK) != 0
        for row, slot in np.argwhere(left).tolist():
            pfn = extent_to_pfn(int(numbers[row])) + slot
            kind = Kind(owners.kind[numbers[row]])
            what = f"page {pfn} says that it is {_describe(int(words[row, slot]), kind)}"
            ino = owner_ino(int(words[row, slot]))
            yield _unclaimed(inodes, what, ino, owner_word_offset(pfn), pfn)
    heads: NDArray[Any] = image.heads
    whole = extents.of_kind(Kind.WHOLE)
    for extent in whole[~extents.whole_claimed[whole]].tolist():
        what = f"extent {extent} says that it is piece {heads['index'][extent]}"
        owner = int(heads["owner"][extent])
        offset = image.geometry.head_offset(extent)
        yield _unclaimed(inodes, what, owner, offset, extent_to_pfn(extent))


def _unclaimed(inodes: InodeTable, what: str, ino: int, offset: int, pfn: int) -> Finding:
    if inodes.exists(ino):
        message = f"{what} of inode {ino}, whose map does not have it"
        return Finding("owner-unmapped", message, offset, pfn)
    message = f"{what} of inode {ino}, which does not exist"
    return Finding("owner-inode", message, offset, pfn)
