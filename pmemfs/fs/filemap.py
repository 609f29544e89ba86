"""File maps: which device pages hold which pages of a file.

Two forms, both in `pmemfs.layout.words`: a list of runs in the inode while it fits there, and a
tree of node pages. A list becomes a tree when it overflows, and an empty tree a list again. To
callers there is one map of runs ``(index, pages, pfn, whole)``.

Nothing of a map is believed before the place it names says the same: a page by its owner word, a
whole extent by its head, a node by its owner word. That costs one or two loads for each extent, a
compare of the owner words for a run. What disagrees is a `DamagedImageError`, so a damaged map
reaches neither another file nor metadata, and no loop here is longer than what really exists.

A map refers; it does not own. Allocating and freeing the pages it names is the caller's part; node
pages are allocated and freed here. Changing or removing what is mapped allocates nothing, except
that cutting a hole into a full list of runs makes a tree (see `FileMaps.can_clear`).

Cost: `lookup` reads at most one word per level (4 for 16 TiB) or bisects at most 17 runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError, InvariantError
from pmemfs.fs.inodes import Inode, Run, encode_runs
from pmemfs.journal import Transaction
from pmemfs.layout.geometry import (
    EXTENT_PAGE_SHIFT,
    MAX_FILE_PAGES,
    PAGES_PER_EXTENT,
    WORDS_PER_PAGE,
)
from pmemfs.layout.records import MAP_WORDS, Kind, MapKind, Role
from pmemfs.layout.words import PFN_MASK, WHOLE, owner_word
from pmemfs.pages import Arena, ExtentPool
from pmemfs.pages.arenas import free_metadata

_LEVEL_SHIFT = 9
_LEVEL_MASK = WORDS_PER_PAGE - 1
_ANY_PFN = 1 << 62
_MAP = int(Role.MAP)
# plain integers: the members of enumerations are slow, and every lookup needs these
_SMALL = int(Kind.SMALL)
_METADATA = int(Kind.METADATA)


def piece_of(index: int) -> int:
    """Return the 2 MiB piece that a page index lies in."""
    return index >> EXTENT_PAGE_SHIFT


def merge_run(runs: list[Run], run: Run) -> None:
    """Append a run, as part of the last one where the two continue each other."""
    if runs:
        index, count, pfn, whole = runs[-1]
        if index + count == run[0] and pfn + count == run[2] and whole == run[3]:
            runs[-1] = (index, count + run[1], pfn, whole)
            return
    runs.append(run)


class FileMaps:
    """The maps of all files of a volume; ``metadata`` gives their node pages."""

    def __init__(self, device: MappedDevice, pool: ExtentPool, metadata: Arena) -> None:
        self._device = device
        self._pool = pool
        self._metadata = metadata

    # -- reading -----------------------------------------------------------------------------

    def lookup(self, inode: Inode, index: int, want: int) -> tuple[int, int, bool]:
        """Return ``(pfn, pages, whole)`` of what holds page ``index``; pfn 0 is a hole.

        ``pages`` is how far that goes on contiguously, at most ``want``.
        """
        runs = inode.runs
        if runs is None:
            return self._lookup_tree(inode, index, want)
        place = bisect_right(runs, (index, _ANY_PFN)) - 1
        if place >= 0:
            first, count, pfn, whole = runs[place]
            skip = index - first
            if skip < count:
                count = min(count - skip, want)
                self._validate(inode, index, pfn + skip, count, whole)
                return pfn + skip, count, whole
        if place + 1 < len(runs):
            return 0, min(runs[place + 1][0] - index, want), False
        return 0, want, False

    def _lookup_tree(self, inode: Inode, index: int, want: int) -> tuple[int, int, bool]:
        height = inode.map_height
        shift = height * _LEVEL_SHIFT
        slot = index >> shift
        if slot >= MAP_WORDS:
            return 0, want, False
        word = inode.words[slot]
        words = self._device.words
        node = -1
        while word and height:
            if word & WHOLE:
                skip = index & _LEVEL_MASK
                pfn = (word & PFN_MASK) + skip
                count = min(PAGES_PER_EXTENT - skip, want)
                self._validate(inode, index, pfn, count, True)
                return pfn, count, True
            height -= 1
            shift -= _LEVEL_SHIFT
            node = self._node_base(inode, word)
            slot = (index >> shift) & _LEVEL_MASK
            word = words[node + slot]
        if not word:
            empty = 1 if node < 0 else self._empty_words(inode, node, slot)
            return 0, min((((index >> shift) + empty) << shift) - index, want), False
        pfn = word & PFN_MASK
        most = min(want, WORDS_PER_PAGE - slot, PAGES_PER_EXTENT - (pfn & _LEVEL_MASK))
        count = 1
        while count < most and words[node + slot + count] == pfn + count:
            count += 1
        self._validate(inode, index, pfn, count, False)
        return pfn, count, False

    def _node_base(self, inode: Inode, word: int) -> int:
        """Return the index of the first word of a node page in the device's words."""
        pfn = word & PFN_MASK
        if not self._pool.holds_page(pfn, _METADATA, owner_word(inode.ino, _MAP)):
            raise self._damaged(inode)
        return pfn << EXTENT_PAGE_SHIFT

    def _empty_words(self, inode: Inode, node: int, slot: int) -> int:
        """Count the words of a node that are 0 from ``slot`` on; a node is never empty."""
        words = self._device.words[node + slot : node + WORDS_PER_PAGE].tobytes()
        empty = (len(words) - len(words.lstrip(b"\0"))) >> 3
        if empty == WORDS_PER_PAGE:
            raise self._damaged(inode)
        return empty

    def _validate(self, inode: Inode, index: int, pfn: int, count: int, whole: bool) -> None:
        """Raise `DamagedImageError` unless the pages of a run say that they are these."""
        pool, ino = self._pool, inode.ino
        if whole:
            skip = index & _LEVEL_MASK
            first, piece = pfn - skip, index >> EXTENT_PAGE_SHIFT
            more = range(PAGES_PER_EXTENT, skip + count, PAGES_PER_EXTENT)
            good = pool.holds_piece(first, ino, piece) and all(
                pool.holds_piece(first + n, ino, piece + (n >> EXTENT_PAGE_SHIFT)) for n in more
            )
        else:
            good = pool.holds_run(pfn, count, _SMALL, ino | index << 32)
        if not good:
            raise self._damaged(inode)

    @staticmethod
    def _damaged(inode: Inode) -> DamagedImageError:
        return DamagedImageError(
            f"the map of inode {inode.ino} is damaged; run pmemfs fsck", inode.offset
        )

    def iter_runs(self, inode: Inode, first: int, stop: int) -> Iterator[Run]:
        """Iterate what is mapped of pages ``first`` to ``stop``, in order, holes left out."""
        index = first
        while index < stop:
            pfn, count, whole = self.lookup(inode, index, stop - index)
            if pfn:
                yield index, count, pfn, whole
            index += count

    def mapped_pages(self, inode: Inode, piece: int) -> int:
        """Count the pages that are mapped of a piece."""
        first = piece << EXTENT_PAGE_SHIFT
        if inode.runs is not None:
            stop = first + PAGES_PER_EXTENT
            return sum(
                max(0, min(index + count, stop) - max(index, first))
                for index, count, _, _ in inode.runs
            )
        pfn, whole = self._piece_word(inode, piece)
        if whole or not pfn:
            return PAGES_PER_EXTENT if pfn else 0
        self._node_base(inode, pfn)
        words = np.frombuffer(self._device.view, "<u8", WORDS_PER_PAGE, pfn << 12)
        return int(np.count_nonzero(words))

    def _piece_word(self, inode: Inode, piece: int) -> tuple[int, bool]:
        """Return ``(pfn, whole)`` of the word that stands for a piece in a tree."""
        height = inode.map_height
        slot = piece >> (height - 1) * _LEVEL_SHIFT
        word = inode.words[slot] if slot < MAP_WORDS else 0
        for level in range(height - 2, -1, -1):
            if not word:
                break
            node = self._node_base(inode, word)
            word = self._device.words[node + ((piece >> level * _LEVEL_SHIFT) & _LEVEL_MASK)]
        return word & PFN_MASK, bool(word & WHOLE)

    def last_run(self, tx: Transaction, inode: Inode) -> Run | None:
        """Return the last run of a map that lies in one piece, or None when it is empty.

        Sees what the transaction has cleared already.
        """
        if inode.runs is not None:
            if not inode.runs:
                return None
            index, count, pfn, whole = inode.runs[-1]
            first = max(index, (index + count - 1) & ~(PAGES_PER_EXTENT - 1))
            return first, index + count - first, pfn + first - index, whole
        return self._last_run_below(tx, inode, inode.words, inode.map_height, 0)

    def _last_run_below(
        self, tx: Transaction, inode: Inode, words: list[int], height: int, base: int
    ) -> Run | None:
        """Return the last run under the words of one node, which map from page ``base`` on."""
        for slot in range(len(words) - 1, -1, -1):
            word = words[slot]
            if not word:
                continue
            index = base + (slot << height * _LEVEL_SHIFT)
            if not height:
                first = slot
                most = min(slot, word & _LEVEL_MASK)
                while slot - first < most and words[first - 1] == word - (slot - first + 1):
                    first -= 1
                return base + first, slot - first + 1, word - (slot - first), False
            if word & WHOLE:
                return index, PAGES_PER_EXTENT, word & PFN_MASK, True
            node = self._node(tx, inode, word)
            below = memoryview(tx.page(node)).cast("Q").tolist()
            return self._last_run_below(tx, inode, below, height - 1, index)
        if words is not inode.words:  # a node is never empty
            raise self._damaged(inode)
        return None

    # -- changing ----------------------------------------------------------------------------

    def assign(self, tx: Transaction, inode: Inode, run: Run) -> None:
        """Map pages that are a hole now. The caller guards and puts the inode.

        Raises `PmemfsError` with ENOSPC when a node page is needed and none is to be had.
        """
        index, count, pfn, whole = run
        if index + count > MAX_FILE_PAGES:
            raise InvariantError("a map beyond the largest file")
        if inode.runs is not None:
            merged = _insert(inode.runs, run)
            if len(encode_runs(merged)) <= MAP_WORDS:
                inode.runs = merged
                return
            self._make_tree(tx, inode)
        while count:
            in_piece = min(count, PAGES_PER_EXTENT - (index & (PAGES_PER_EXTENT - 1)))
            self._assign_in_piece(tx, inode, index, in_piece, pfn, whole)
            index, pfn, count = index + in_piece, pfn + in_piece, count - in_piece

    def replace(self, tx: Transaction, inode: Inode, runs: list[Run]) -> None:
        """Map pages of one piece that lie in small extents elsewhere, in others.

        As `assign`, which this is in one go: no node page comes or goes but those that a list of
        runs needs to become a tree.
        """
        if inode.runs is not None:
            changed = inode.runs
            for run in runs:
                changed = _insert(_remove(changed, run[0], run[0] + run[1]), run)
            if len(encode_runs(changed)) <= MAP_WORDS:
                inode.runs = changed
                return
            self._make_tree(tx, inode)
        for index, count, pfn, _ in runs:
            words = b"".join((pfn + i).to_bytes(8, "little") for i in range(count))
            node = self._leaf(tx, inode, piece_of(index))
            tx.patch(node, (index & _LEVEL_MASK) * 8, words)

    def _make_tree(self, tx: Transaction, inode: Inode) -> None:
        runs = inode.runs or []
        inode.runs = None
        inode.words = [0] * MAP_WORDS
        inode.map_kind = MapKind.TREE
        inode.map_height = 1
        for run in runs:
            self.assign(tx, inode, run)

    def _assign_in_piece(
        self, tx: Transaction, inode: Inode, index: int, count: int, pfn: int, whole: bool
    ) -> None:
        while index >> inode.map_height * _LEVEL_SHIFT >= MAP_WORDS:
            self._grow(tx, inode)
        if whole:
            self._set_piece_word(tx, inode, piece_of(index), pfn | WHOLE)
            return
        node = self._leaf(tx, inode, piece_of(index))
        words = b"".join((pfn + i).to_bytes(8, "little") for i in range(count))
        tx.patch(node, (index & _LEVEL_MASK) * 8, words)

    def _grow(self, tx: Transaction, inode: Inode) -> None:
        """Put one level above the root words; they become the first words of a node."""
        if any(inode.words):
            node = self._new_node(tx, inode)
            page = tx.fresh[node]
            page[: MAP_WORDS * 8] = b"".join(word.to_bytes(8, "little") for word in inode.words)
            inode.words = [node] + [0] * (MAP_WORDS - 1)
        inode.map_height += 1

    def _new_node(self, tx: Transaction, inode: Inode) -> int:
        ((pfn, _),) = self._metadata.allocate(tx, 1, owner_word(inode.ino, _MAP), 0)
        tx.fresh_page(pfn)
        return pfn

    def _descend(
        self, tx: Transaction, inode: Inode, piece: int, *, make: bool
    ) -> list[tuple[int, int]]:
        """Return the ``(node pfn, slot)`` path to the word of a piece; node 0 is the inode."""
        path = [(0, piece >> (inode.map_height - 1) * _LEVEL_SHIFT)]
        for level in range(inode.map_height - 2, -1, -1):
            word = self._path_word(tx, inode, path[-1])
            if not word and make:
                word = self._new_node(tx, inode)
                self._set_path_word(tx, inode, path[-1], word)
            node = self._node(tx, inode, word)
            path.append((node, (piece >> level * _LEVEL_SHIFT) & _LEVEL_MASK))
        return path

    def _node(self, tx: Transaction, inode: Inode, word: int) -> int:
        """Return the node page that a word names; one of this transaction has no owner word yet."""
        pfn = word & PFN_MASK
        if pfn not in tx.fresh:
            self._node_base(inode, word)
        return pfn

    @staticmethod
    def _path_word(tx: Transaction, inode: Inode, step: tuple[int, int]) -> int:
        node, slot = step
        return tx.word(node, slot) if node else inode.words[slot]

    @staticmethod
    def _set_path_word(tx: Transaction, inode: Inode, step: tuple[int, int], word: int) -> None:
        node, slot = step
        if node:
            tx.set_word(node, slot, word)
        else:
            inode.words[slot] = word

    def _set_piece_word(self, tx: Transaction, inode: Inode, piece: int, word: int) -> None:
        path = self._descend(tx, inode, piece, make=True)
        if self._path_word(tx, inode, path[-1]):
            raise InvariantError(f"1: piece {piece} of inode {inode.ino} is mapped already")
        self._set_path_word(tx, inode, path[-1], word)

    def _leaf(self, tx: Transaction, inode: Inode, piece: int) -> int:
        path = self._descend(tx, inode, piece, make=True)
        word = self._path_word(tx, inode, path[-1])
        if not word:
            word = self._new_node(tx, inode)
            self._set_path_word(tx, inode, path[-1], word)
        if word & WHOLE:
            raise self._damaged(inode)
        return self._node(tx, inode, word)

    def can_clear(self, inode: Inode, first: int, stop: int) -> bool:
        """Whether `clear` of these pages needs no node page."""
        if inode.runs is None:
            return True
        return len(encode_runs(_remove(inode.runs, first, stop))) <= MAP_WORDS

    def clear(self, tx: Transaction, inode: Inode, first: int, stop: int) -> None:
        """Unmap pages of one piece, all of it where it is whole; free node pages left empty.

        Allocates nothing if `can_clear`. The caller has collected the runs, and frees them.
        """
        if inode.runs is not None:
            remaining = _remove(inode.runs, first, stop)
            if len(encode_runs(remaining)) <= MAP_WORDS:
                inode.runs = remaining
                return
            self._make_tree(tx, inode)
        path = self._descend(tx, inode, piece_of(first), make=False)
        word = self._path_word(tx, inode, path[-1])
        if not word & WHOLE:
            node = self._node(tx, inode, word)
            tx.patch(node, (first & _LEVEL_MASK) * 8, bytes(8 * (stop - first)))
            if any(tx.page(node)):
                return
            self._free_node(tx, inode, node)
        self._clear_path(tx, inode, path)

    def _clear_path(self, tx: Transaction, inode: Inode, path: list[tuple[int, int]]) -> None:
        """Clear the word a path ends at, and free the nodes that become empty by that."""
        while path:
            node, slot = path.pop()
            self._set_path_word(tx, inode, (node, slot), 0)
            if not node or any(tx.page(node)):
                break
            self._free_node(tx, inode, node)
        if not any(inode.words):
            inode.map_kind, inode.map_height, inode.runs = MapKind.RUNS, 0, []

    def _free_node(self, tx: Transaction, inode: Inode, node: int) -> None:
        free_metadata(self._pool, tx, node, owner_word(inode.ino, _MAP))


def _insert(runs: list[Run], run: Run) -> list[Run]:
    """Return the runs with one more, merged with its neighbours."""
    out: list[Run] = []
    place = bisect_right(runs, (run[0], _ANY_PFN))
    for each in [*runs[:place], run, *runs[place:]]:
        merge_run(out, each)
    return out


def _remove(runs: list[Run], first: int, stop: int) -> list[Run]:
    """Return the runs without pages ``first`` to ``stop``."""
    out: list[Run] = []
    for index, count, pfn, whole in runs:
        end = index + count
        if index < first:
            out.append((index, min(end, first) - index, pfn, whole))
        if end > stop:
            start = max(index, stop)
            out.append((start, end - start, pfn + start - index, whole))
    return out
