"""Read the map of a file as far as it can be read, and build one from pages.

Reading trusts nothing: words are taken as far as they make sense, node pages are entered once.
Building writes node pages where nothing refers to them; the caller then stores the words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pmemfs.fsck.fields import MAX_TREE_HEIGHT
from pmemfs.layout.geometry import (
    EXTENT_PAGE_SHIFT,
    MAX_FILE_PAGES,
    PAGES_PER_EXTENT,
    WORDS_PER_PAGE,
)
from pmemfs.layout.records import MAP_WORDS, MapKind
from pmemfs.layout.words import COUNT_SHIFT, HOLE, MAX_RUN_PAGES, PFN_MASK, WHOLE

MAP_CHECKS = (
    "map-word",
    "map-range",
    "map-extent",
    "map-owner",
    "map-whole",
    "map-empty",
    "page-twice",
)
"""What is found wrong in a map."""

_FANOUT_SHIFT = 9
_MAX_WHOLE_RUN = MAX_RUN_PAGES // PAGES_PER_EXTENT * PAGES_PER_EXTENT
_UNUSED_BITS = ((1 << COUNT_SHIFT) - 1) & ~(PFN_MASK | WHOLE | HOLE)

ReadNode = Callable[[int], bytes | None]
StoreNode = Callable[[bytes], int]


@dataclass
class FileMap:
    """``small`` maps page index to pfn, ``whole`` piece to extent; ``nodes`` are those entered.

    ``broken`` says that some of the map could not be read.
    """

    small: dict[int, int] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)
    nodes: list[int] = field(default_factory=list)
    broken: bool = False

    @property
    def pages(self) -> int:
        """Pages that are mapped."""
        return len(self.small) + PAGES_PER_EXTENT * len(self.whole)

    @property
    def end(self) -> int:
        """The first page index behind the last page that is mapped."""
        small = max(self.small, default=-1) + 1
        return max(small, (max(self.whole, default=-1) + 1) * PAGES_PER_EXTENT)


def read_map(record: dict[str, Any], n_pages: int, read_node: ReadNode) -> FileMap:
    """Return the map of a regular file; ``read_node`` gives a node page, or None if it is none."""
    found = FileMap()
    if record["map_kind"] == MapKind.RUNS:
        _read_runs(record["map"], n_pages, found)
    elif record["map_kind"] == MapKind.TREE and 1 <= record["map_height"] <= MAX_TREE_HEIGHT:
        _read_tree(record, n_pages, read_node, found)
    else:
        found.broken = True
    return found


def _read_runs(words: tuple[int, ...], n_pages: int, found: FileMap) -> None:
    index = 0
    for place, word in enumerate(words):
        if not word:
            found.broken |= any(words[place:])
            return
        pfn, count = word & PFN_MASK, word >> COUNT_SHIFT
        length = pfn if word & HOLE else count
        malformed = word & _UNUSED_BITS or not length or index + length > MAX_FILE_PAGES
        malformed |= bool(word & HOLE and (word & WHOLE or count))
        if word & WHOLE:
            malformed |= (pfn | count | index) % PAGES_PER_EXTENT != 0
        elif not word & HOLE:
            malformed |= pfn % PAGES_PER_EXTENT + count > PAGES_PER_EXTENT
        if malformed:
            found.broken = True
            return
        if not word & HOLE:
            inside = max(min(length, n_pages - pfn), 0)
            found.broken |= inside < length
            _add_run(found, index, pfn, inside, whole=bool(word & WHOLE))
        index += length


def _add_run(found: FileMap, index: int, pfn: int, count: int, *, whole: bool) -> None:
    if not whole:
        found.small.update(zip(range(index, index + count), range(pfn, pfn + count)))
        return
    piece, extent = index >> EXTENT_PAGE_SHIFT, pfn >> EXTENT_PAGE_SHIFT
    for step in range(count >> EXTENT_PAGE_SHIFT):
        found.whole[piece + step] = extent + step


def _read_tree(record: dict[str, Any], n_pages: int, read_node: ReadNode, found: FileMap) -> None:
    todo: list[tuple[Any, int, int]] = [(record["map"], record["map_height"], 0)]
    seen: set[int] = set()
    while todo:
        words, height, first = todo.pop()
        for place in np.flatnonzero(words).tolist():
            word, pfn = int(words[place]), int(words[place]) & PFN_MASK
            index = first + (place << _FANOUT_SHIFT * height)
            whole = height == 1 and word == pfn | WHOLE and pfn % PAGES_PER_EXTENT == 0
            if not (word == pfn or whole) or not 0 < pfn < n_pages or index >= MAX_FILE_PAGES:
                found.broken = True
            elif height == 0:
                found.small[index] = pfn
            elif whole:
                found.whole[index >> EXTENT_PAGE_SHIFT] = pfn >> EXTENT_PAGE_SHIFT
            else:
                page = None if pfn in seen else read_node(pfn)
                if page is None:
                    found.broken = True
                    continue
                seen.add(pfn)
                found.nodes.append(pfn)
                found.broken |= not any(page)  # a node is never empty
                todo.append((np.frombuffer(page, "<u8"), height - 1, index))


def build_map(wanted: FileMap, store_node: StoreNode) -> dict[str, Any]:
    """Return the inode fields of a map with these pages.

    A piece that is whole has no small pages beside it.
    """
    words = list(_iter_runs(wanted))
    if len(words) <= MAP_WORDS:
        return {"map_kind": MapKind.RUNS, "map_height": 0, "map": tuple(words)}
    return _build_tree(wanted, store_node)


def _iter_segments(wanted: FileMap) -> Iterator[tuple[int, int, int, int]]:
    """Iterate ``(index, pfn, count, flag)`` in order of the index, neighbours joined."""
    parts = [(index, pfn, 1, 0) for index, pfn in wanted.small.items()]
    for piece, extent in wanted.whole.items():
        size = PAGES_PER_EXTENT
        parts.append((piece * size, extent * size, size, WHOLE))
    parts.sort()
    open_part: tuple[int, int, int, int] | None = None
    for part in parts:
        index, pfn, count, flag = part
        if open_part is not None:
            first, start, length, kind = open_part
            limit = _MAX_WHOLE_RUN if flag else MAX_RUN_PAGES
            joined = kind == flag and first + length == index and start + length == pfn
            if joined and length + count <= limit:
                open_part = (first, start, length + count, kind)
                continue
            yield open_part
        open_part = part
    if open_part is not None:
        yield open_part


def _iter_runs(wanted: FileMap) -> Iterator[int]:
    reached = 0
    for index, pfn, count, flag in _iter_segments(wanted):
        if index > reached:
            yield HOLE | index - reached
        yield pfn | flag | count << COUNT_SHIFT
        reached = index + count


def _build_tree(wanted: FileMap, store_node: StoreNode) -> dict[str, Any]:
    """Build node pages level by level, from the pieces upwards."""
    level: dict[int, int] = {piece: extent * PAGES_PER_EXTENT | WHOLE
                             for piece, extent in wanted.whole.items()}  # fmt: skip
    pieces = _grouped(wanted.small)
    for piece, words in pieces.items():
        if piece in level:
            continue
        level[piece] = store_node(_node(words))
    height = 1
    while max(level) >= MAP_WORDS:
        above = {}
        for place, words in _grouped(level).items():
            above[place] = store_node(_node(words))
        level, height = above, height + 1
    root = tuple(level.get(place, 0) for place in range(MAP_WORDS))
    return {"map_kind": MapKind.TREE, "map_height": height, "map": root}


def _grouped(words: dict[int, int]) -> dict[int, dict[int, int]]:
    """Return the words by node and place in it."""
    groups: dict[int, dict[int, int]] = {}
    for index, word in words.items():
        groups.setdefault(index // WORDS_PER_PAGE, {})[index % WORDS_PER_PAGE] = word
    return groups


def _node(words: dict[int, int]) -> bytes:
    page = np.zeros(WORDS_PER_PAGE, "<u8")
    page[list(words)] = list(words.values())
    return page.tobytes()
