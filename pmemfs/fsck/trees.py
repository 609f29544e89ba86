"""Check maps that are trees of node pages.

A node is claimed before it is read, and no page can be claimed twice, so a walk ends whatever
the words say: there is no cycle and no shared node to follow. A node is never empty: the one who
clears its last word frees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.fields import MAX_TREE_HEIGHT
from pmemfs.fsck.inodes import REGULAR, Chunk
from pmemfs.fsck.maps import MapChecker, MapTotals, Runs
from pmemfs.fsck.report import Finding
from pmemfs.layout.geometry import (
    EXTENT_PAGE_SHIFT,
    MAX_FILE_PAGES,
    PAGES_PER_EXTENT,
    WORD_BYTES,
    pfn_to_offset,
)
from pmemfs.layout.records import INODE, Kind, MapKind, Role
from pmemfs.layout.words import PFN_MASK, WHOLE

PIECE_HEIGHT = 1  # a word at this height names a piece; at height 0, a page
_FANOUT_SHIFT = 9


@dataclass
class _Node:
    """Map words that stand at ``height``, the first of them for page ``index``."""

    words: NDArray[np.uint64]
    height: int
    index: int
    offset: int

    def index_of(self, place: int) -> int:
        """Page index of the word at ``place``."""
        return self.index + (place << _FANOUT_SHIFT * self.height)


def check_trees(
    checker: MapChecker,
    chunk: Chunk,
    types: NDArray[np.uint8],
    records: NDArray[Any],
    totals: MapTotals,
) -> Iterator[Finding]:
    """Yield findings about all trees of files in one chunk; add to ``totals``."""
    listed = (types == REGULAR) & (records["map_kind"] == MapKind.TREE)
    height = records["map_height"]
    listed &= (height >= 1) & (height <= MAX_TREE_HEIGHT)
    for place in np.flatnonzero(listed).tolist():
        offset = chunk.offset_of(place) + INODE.offset_of["map"]
        root = _Node(records["map"][place], int(height[place]), 0, offset)
        walk = _TreeWalk(checker, chunk.first_ino + place)
        yield from walk.check(root)
        totals.pages[place] = walk.pages
        totals.small_end[place] = walk.small_end
        totals.whole_end[place] = walk.whole_end
        totals.broken[place] = walk.broken


class _TreeWalk:
    """One walk of one tree."""

    def __init__(self, checker: MapChecker, ino: int) -> None:
        self.checker = checker
        self.ino = ino
        self.pages = 0
        self.small_end = 0
        self.whole_end = 0
        self.broken = False
        self._todo: list[_Node] = []

    def check(self, root: _Node) -> Iterator[Finding]:
        """Yield findings about every node, and sum up what is mapped."""
        self._todo.append(root)
        while self._todo:
            node = self._todo.pop()
            malformed = self._malformed(node)
            for place in np.flatnonzero(malformed).tolist():
                self.broken = True
                word, index = int(node.words[place]), node.index_of(place)
                message = f"map word {word:#x} of inode {self.ino} at page {index} is malformed"
                yield Finding("map-word", message, node.offset + place * WORD_BYTES, self.ino)
            good = np.where(malformed, np.uint64(0), node.words)
            if node.height == 0:
                yield from self._check_pages(node, good)
            else:
                yield from self._check_children(node, good)

    def _malformed(self, node: _Node) -> NDArray[np.bool_]:
        whole = (node.words & np.uint64(WHOLE)) != 0
        pfns = node.words & np.uint64(PFN_MASK)
        malformed = (node.words & ~np.uint64(PFN_MASK | WHOLE)) != 0
        malformed |= (node.words != 0) & (pfns == 0)
        if node.height == PIECE_HEIGHT:
            malformed |= whole & (pfns % np.uint64(PAGES_PER_EXTENT) != 0)
        else:
            malformed |= whole
        shift = _FANOUT_SHIFT * node.height
        index = node.index + (np.arange(len(node.words), dtype=np.int64) << shift)
        return malformed | ((node.words != 0) & (index >= MAX_FILE_PAGES))

    def _check_pages(self, node: _Node, words: NDArray[np.uint64]) -> Iterator[Finding]:
        places = np.flatnonzero(words)
        if not len(places):
            return
        pfns = words[places].astype(np.int64)
        self.pages += len(places)
        self.small_end = max(self.small_end, node.index + int(places[-1]) + 1)
        yield from self._claim(node.index + places, pfns, Kind.SMALL)

    def _check_children(self, node: _Node, words: NDArray[np.uint64]) -> Iterator[Finding]:
        whole = (words & np.uint64(WHOLE)) != 0
        pieces = np.flatnonzero(whole)
        if len(pieces):
            numbers = (words[pieces] & np.uint64(PFN_MASK)).astype(np.int64) >> EXTENT_PAGE_SHIFT
            self.pages += len(pieces) * PAGES_PER_EXTENT
            self.whole_end = max(self.whole_end, node.index_of(int(pieces[-1]) + 1))
            first = node.index >> EXTENT_PAGE_SHIFT
            yield from self._claim(first + pieces, numbers, Kind.WHOLE)
        for place in np.flatnonzero((words != 0) & ~whole).tolist():
            yield from self._enter(int(words[place]), node.height - 1, node.index_of(place))

    def _claim(
        self, index: NDArray[np.int64], places: NDArray[np.int64], kind: Kind
    ) -> Iterator[Finding]:
        ones = np.ones(len(index), np.int64)
        yield from self.checker.claim_runs(Runs(ones * self.ino, index, places, ones), kind)

    def _enter(self, pfn: int, height: int, index: int) -> Iterator[Finding]:
        finding = self.checker.owners.claim_metadata(pfn, self.ino, Role.MAP)
        if finding is not None:
            self.broken = True
            yield finding
            return
        words = np.frombuffer(self.checker.owners.read_page(pfn), "<u8")
        if not words.any():
            self.broken = True
            message = f"node page {pfn} of the map of inode {self.ino} is empty"
            yield Finding("map-empty", message, pfn_to_offset(pfn), self.ino)
            return
        self._todo.append(_Node(words, height, index, pfn_to_offset(pfn)))
