"""Where a write goes: pages of small extents, or a whole extent. What may be in the wrong one.

A piece of a file starts small and becomes whole when it is populated to the threshold. A file
that is larger than a piece already, and dense (populated to the same share overall, so that a
sparse file of scattered 4 KiB writes does not take 2 MiB for each), takes whole extents at once,
for pieces that have nothing yet.

Hysteresis: the last piece of a file is demoted when it uses less than 7/8 of the threshold of its
whole extent (`demotes`), and what has been demoted is promoted at the threshold only: 1/16 of a
piece has to be written in between. Demotion also waits until the extent is idle, and spends the
budget of compaction, so a file that grows and shrinks across both makes no move that its own
writes have not paid for.
"""

from __future__ import annotations

from pmemfs.layout.geometry import PAGES_PER_EXTENT

DEFAULT_THRESHOLD_PAGES = PAGES_PER_EXTENT // 2


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
