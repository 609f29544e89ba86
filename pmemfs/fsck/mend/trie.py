"""Build a directory from its entries: leaf pages, and nodes over them, as FORMAT.md has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmemfs.fsck.directories import MAX_BITS, NODE_BITS
from pmemfs.fsck.leaves import COOKIE_BITS, Entry
from pmemfs.fsck.mend.mending import NoPageError
from pmemfs.layout.geometry import PAGE_BYTES, WORDS_PER_PAGE
from pmemfs.layout.records import DIRECTORY_LEAF, DIRECTORY_SLOT, Role
from pmemfs.layout.words import NODE

StorePage = Callable[[Role, bytes], int]


def build_directory(ino: int, entries: list[Entry], store_page: StorePage) -> int:
    """Return the directory word of a trie with these entries; 0 without any.

    Raises `NoPageError` when more names share a hash than a leaf can hold.
    """
    if not entries:
        return 0
    return _Builder(ino, store_page).word_of(sorted(entries), 0, 0)


class _Builder:
    def __init__(self, ino: int, store_page: StorePage) -> None:
        self.ino = ino
        self._store_page = store_page

    def word_of(self, entries: list[Entry], bits: int, prefix: int) -> int:
        """Return the word of all entries below ``bits`` bits of hash: a leaf or a node."""
        if fits(entries):
            return self._leaf(entries, bits, prefix)
        if bits > MAX_BITS - NODE_BITS:
            raise NoPageError
        words = np.zeros(WORDS_PER_PAGE, "<u8")
        self._fill(words, entries, bits, bits, prefix)
        return self._store(Role.DIRECTORY_NODE, words.tobytes()) | NODE

    def _fill(
        self, words: np.ndarray[tuple[int], np.dtype[np.uint64]], entries: list[Entry],
        base: int, depth: int, prefix: int,
    ) -> None:  # fmt: skip
        """Fill the words of a node over ``base`` bits that agree with ``depth`` bits of prefix."""
        if depth > base and (fits(entries) or depth == base + NODE_BITS):
            width = 1 << base + NODE_BITS - depth
            first = prefix >> COOKIE_BITS - base - NODE_BITS & WORDS_PER_PAGE - 1
            words[first : first + width] = self.word_of(entries, depth, prefix)
            return
        bit = 1 << COOKIE_BITS - 1 - depth
        low = [entry for entry in entries if not entry.cookie & bit]
        high = [entry for entry in entries if entry.cookie & bit]
        self._fill(words, low, base, depth + 1, prefix)
        self._fill(words, high, base, depth + 1, prefix | bit)

    def _leaf(self, entries: list[Entry], depth: int, prefix: int) -> int:
        return self._store(Role.DIRECTORY_LEAF, pack_leaf(self.ino, depth, prefix, entries))

    def _store(self, role: Role, page: bytes) -> int:
        return self._store_page(role, page)


def fits(entries: list[Entry]) -> bool:
    """Tell whether one leaf holds these entries."""
    slots = len(entries) * DIRECTORY_SLOT.size_bytes
    names = sum(len(entry.name) for entry in entries)
    return DIRECTORY_LEAF.size_bytes + slots + names <= PAGE_BYTES


def pack_leaf(ino: int, depth: int, prefix: int, entries: list[Entry]) -> bytes:
    """Return the page of a leaf without deleted entries."""
    page = bytearray(PAGE_BYTES)
    heap = PAGE_BYTES
    start = DIRECTORY_LEAF.size_bytes
    for entry in entries:
        heap -= len(entry.name)
        page[heap : heap + len(entry.name)] = entry.name
        slot = DIRECTORY_SLOT.pack(
            cookie=entry.cookie,
            ino=entry.ino,
            name_offset=heap,
            name_bytes=len(entry.name),
            type=entry.type,
        )
        page[start : start + len(slot)] = slot
        start += len(slot)
    n = len(entries)
    header = DIRECTORY_LEAF.pack(ino=ino, depth=depth, slots=n, live=n, heap=heap, prefix=prefix)
    page[: len(header)] = header
    return bytes(page)
