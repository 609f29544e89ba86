"""Read a file's map, both kinds of it, as pieces: whole extents, or runs of pages.

A tree is walked without visiting a node twice, and through pages only that say they are map
pages of this inode, so that a walk ends on any image. What cannot be true is remarked and left
out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pmemfs.errors import DamagedImageError
from pmemfs.inspect.heads import kind_name
from pmemfs.inspect.inodes import Inode, piece_of
from pmemfs.inspect.reader import Reader
from pmemfs.layout.geometry import (
    MAX_FILE_PAGES,
    PAGES_PER_EXTENT,
    WORDS_PER_PAGE,
    pfn_to_extent,
    pfn_to_slot,
)
from pmemfs.layout.records import Kind, MapKind, Role
from pmemfs.layout.words import COUNT_SHIFT, HOLE, PFN_MASK, WHOLE

MAX_HEIGHT = 4

Piece = dict[str, Any]


class FileMap:
    """Where one file lies: ``pieces`` in order, ``nodes`` of its tree, pages ``mapped``.

    A piece is ``whole``, ``count`` pieces in extents side by side from ``extent`` on, or
    ``small``, with ``runs`` of pages.
    """

    def __init__(self, reader: Reader, inode: Inode) -> None:
        self.reader = reader
        self.ino = inode["ino"]
        self.pieces: list[Piece] = []
        self.nodes: list[dict[str, int]] = []
        self.mapped = 0
        self._seen: set[int] = set()
        if inode["map_kind"] == MapKind.RUNS:
            self._runs(inode["map"])
        elif inode["map_kind"] == MapKind.TREE and inode["map_height"] <= MAX_HEIGHT:
            self._words(inode["map"], inode["map_height"], 0)
        else:
            self._remark(f"map of kind {inode['map_kind']} and height {inode['map_height']}")

    def _remark(self, what: str) -> None:
        self.reader.remark(f"inode {self.ino}: {what}")

    # -- a list of runs ----------------------------------------------------------------------

    def _runs(self, words: tuple[int, ...]) -> None:
        page = 0
        for word in words:
            if not word:
                return
            pfn, count = word & PFN_MASK, word >> COUNT_SHIFT
            if word & HOLE:
                page += pfn
            elif not count:
                self._remark(f"word {word:#x} of its list is a run of no pages")
                return
            else:
                self._run(page, pfn, count, bool(word & WHOLE))
                page += count

    def _run(self, page: int, pfn: int, count: int, whole: bool) -> None:
        if pfn + count > self.reader.geometry.n_pages or page + count > MAX_FILE_PAGES:
            self._remark(f"page {page}: {count} pages at pfn {pfn} are beyond the device or file")
        elif not whole:
            self._small(page, pfn, count)
        elif (page | pfn | count) % PAGES_PER_EXTENT:
            self._remark(f"page {page}: {count} pages at pfn {pfn} are not whole extents")
        else:
            self._whole(piece_of(page), pfn_to_extent(pfn), count // PAGES_PER_EXTENT)

    # -- a tree ------------------------------------------------------------------------------

    # Words at a height, the first of which maps page `page` of the file. Height 0 is pages.
    def _words(self, words: tuple[int, ...] | list[int], height: int, page: int) -> None:
        step = WORDS_PER_PAGE**height
        for place, word in enumerate(words):
            if word:
                self._word(word, height, page + place * step)

    def _word(self, word: int, height: int, page: int) -> None:
        pfn = word & PFN_MASK
        whole = bool(word & WHOLE)
        if word & ~(PFN_MASK | WHOLE) or (whole and height != 1):
            self._remark(f"page {page}: wild map word {word:#x} at height {height}")
        elif whole:
            self._run(page, pfn, PAGES_PER_EXTENT, whole=True)
        elif height == 0:
            self._run(page, pfn, 1, whole=False)
        elif pfn in self._seen:
            self._remark(f"page {page}: map node at pfn {pfn} stands in the tree twice")
        else:
            self._node(pfn, height, page)

    def _node(self, pfn: int, height: int, page: int) -> None:
        self._seen.add(pfn)
        try:
            data = self.reader.metadata_page(pfn, self.ino, Role.MAP)
        except DamagedImageError as error:
            self._remark(f"page {page}: {error}")
            return
        self.nodes.append({"pfn": pfn, "height": height, "page": page})
        self._words(np.frombuffer(data, "<u8").tolist(), height - 1, page)

    # -- pieces ------------------------------------------------------------------------------

    def _check_kind(self, page: int, extent: int, kind: Kind) -> None:
        found = self.reader.kind(extent)
        if found != kind:
            meant = kind_name(kind)
            self._remark(f"page {page} is in a {meant} extent, but {extent} is {kind_name(found)}")

    def _whole(self, piece: int, extent: int, count: int) -> None:
        for place in range(count):
            self._check_kind((piece + place) * PAGES_PER_EXTENT, extent + place, Kind.WHOLE)
        self.mapped += count * PAGES_PER_EXTENT
        last = self.pieces[-1] if self.pieces else None
        if (
            last
            and last["kind"] == "whole"
            and last["piece"] + last["count"] == piece
            and last["extent"] + last["count"] == extent
        ):
            last["count"] += count
            return
        self.pieces.append({"piece": piece, "count": count, "kind": "whole", "extent": extent})

    # A run of pages may cross from one piece into the next, and into another extent.
    def _small(self, page: int, pfn: int, count: int) -> None:
        while count:
            part = min(
                count,
                PAGES_PER_EXTENT - page % PAGES_PER_EXTENT,
                PAGES_PER_EXTENT - pfn_to_slot(pfn),
            )
            self._small_part(page, pfn, part)
            page, pfn, count = page + part, pfn + part, count - part

    def _small_part(self, page: int, pfn: int, count: int) -> None:
        self._check_kind(page, pfn_to_extent(pfn), Kind.SMALL)
        self.mapped += count
        last = self.pieces[-1] if self.pieces else None
        if not last or last["kind"] != "small" or last["piece"] != piece_of(page):
            last = {"piece": piece_of(page), "count": 1, "kind": "small", "runs": []}
            self.pieces.append(last)
        runs = last["runs"]
        if runs and _follows(runs[-1], page, pfn):
            runs[-1]["pages"] += count
            return
        runs.append({"page": page, "pfn": pfn, "extent": pfn_to_extent(pfn), "pages": count})


def _follows(run: dict[str, int], page: int, pfn: int) -> bool:
    continues = run["page"] + run["pages"] == page and run["pfn"] + run["pages"] == pfn
    return continues and run["extent"] == pfn_to_extent(pfn)
