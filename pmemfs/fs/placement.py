"""Where a write goes: a whole extent, or pages, and then of which arena. What may lie wrongly.

A piece of a file starts small and becomes whole when it is populated to the threshold. A file
that is larger than a piece already, and dense (populated to the same share overall, so that a
sparse file of scattered 4 KiB writes does not take 2 MiB for each), takes whole extents at once,
for pieces that have nothing yet.

Hysteresis: the last piece of a file is demoted when it uses less than 7/8 of the threshold of its
whole extent (`demotes`), and what has been demoted is promoted at the threshold only: 1/16 of a
piece has to be written in between. Demotion also waits until the extent is idle, and spends the
budget of compaction, so a file that grows and shrinks across both makes no move that its own
writes have not paid for: at most half a page for each page written, and a promotion after each
demotion copies about as much again (``pages_promoted``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pmemfs.fs.inodes import Inode
from pmemfs.layout.geometry import PAGES_PER_EXTENT
from pmemfs.layout.records import Kind
from pmemfs.pages import Arena, ExtentPool

DEFAULT_PROMOTE_PERCENT = 56
"""Between 50 (space amplification 1.15) and 62 (descriptors 0.65 % of the device)."""


def threshold_pages(percent: float) -> int:
    """Return the promotion threshold in pages, at least 1."""
    return max(1, round(percent * PAGES_PER_EXTENT / 100))


DEFAULT_THRESHOLD_PAGES = threshold_pages(DEFAULT_PROMOTE_PERCENT)


def takes_whole(
    populated_pages: int, new_pages: int, file_pages: int, file_end_page: int, threshold_pages: int
) -> bool:
    """Whether a piece should be a whole extent.

    ``populated_pages`` is how many pages of the piece would be mapped after the write,
    ``new_pages`` how many of them by it, ``file_pages`` how many the file has now,
    ``file_end_page`` the first page behind the file after the write.
    """
    if populated_pages >= threshold_pages:
        return True
    if file_pages < PAGES_PER_EXTENT or new_pages < populated_pages:
        return False
    return file_pages * PAGES_PER_EXTENT >= (file_end_page - PAGES_PER_EXTENT) * threshold_pages


def demotes(tail_pages: int, threshold_pages: int) -> bool:
    """Whether the last piece of a file, of that many pages, should leave its whole extent."""
    return tail_pages < threshold_pages * 7 // 8


class Candidates:
    """Files that may lie in the wrong kind of extent; hints in memory, never too many.

    A hint that is lost costs space, not data. What was noted last is looked at last.
    """

    _MOST = 1 << 16

    def __init__(self) -> None:
        self.tails: dict[int, None] = {}
        self.dense: dict[tuple[int, int], None] = {}

    def note_tail(self, ino: int) -> None:
        """Remember a file whose last piece may be a thin whole one."""
        self.tails.pop(ino, None)
        if len(self.tails) < self._MOST:
            self.tails[ino] = None

    def note_dense(self, ino: int, piece: int) -> None:
        """Remember a piece that is dense but small, because no extent was free."""
        if len(self.dense) < self._MOST:
            self.dense[ino, piece] = None


# -- arenas ---------------------------------------------------------------------------------------

_MOST_ARENAS = 8

Choice = Callable[[Inode, int], int]


def _one(inode: Inode, pages: int) -> int:
    return 0


def _by_directory(inode: Inode, pages: int) -> int:
    return inode.home * 0x9E3779B1 >> 16 & (_MOST_ARENAS - 1)


def _by_writer(inode: Inode, pages: int) -> int:
    return inode.uid & (_MOST_ARENAS - 1)


def _by_size(inode: Inode, pages: int) -> int:
    return min((inode.pages + pages).bit_length() >> 1, _MOST_ARENAS - 1)


PLACEMENTS: dict[str, Choice] = {
    "one": _one,
    "directory": _by_directory,
    "writer": _by_writer,
    "size": _by_size,
}
"""The policies that say which arena a page goes to: of an inode and the pages it asks for.

``one``: a single arena for all. ``directory``: files made in one directory go together (known
while the inode is cached). ``writer``: files of one owner. ``size``: files of 1, 2 to 7, 8 to 31,
32 to 127 and more pages. bench/ageing/AGEING.md compares them.
"""

DEFAULT_PLACEMENT = "one"


class DataArenas:
    """The arenas for file data of one volume, made as the policy asks for them."""

    def __init__(self, pool: ExtentPool, policy: str = DEFAULT_PLACEMENT) -> None:
        self._pool = pool
        self._choose = PLACEMENTS[policy]
        self._arenas: dict[int, Arena] = {}

    def of(self, inode: Inode, pages: int) -> Arena:
        """Return the arena that so many new pages of a file go to: the policy's one place."""
        number = self._choose(inode, pages)
        arena = self._arenas.get(number)
        if arena is None:
            group = 0 if self._choose is _one else number + 1
            arena = self._arenas[number] = Arena(self._pool, Kind.SMALL, group=group)
        return arena

    def __iter__(self) -> Iterator[Arena]:
        return iter(self._arenas.values())

    def retire(self) -> None:
        """Let all arenas give their extents up."""
        for arena in self:
            arena.retire()
