"""Where a write goes: pages of small extents, or a whole extent. Pure functions.

A piece of a file starts small and becomes whole when it is populated to the threshold. A file
that is larger than a piece already, and dense (populated to the same share overall, so that a
sparse file of scattered 4 KiB writes does not take 2 MiB for each), takes whole extents at once.
"""

from __future__ import annotations

from pmemfs.layout.geometry import PAGES_PER_EXTENT

DEFAULT_THRESHOLD_PAGES = PAGES_PER_EXTENT // 2


def takes_whole(
    populated_pages: int, file_pages: int, file_end_page: int, threshold_pages: int
) -> bool:
    """Whether a piece should be a whole extent.

    ``populated_pages`` is how many pages of the piece would be mapped after the write,
    ``file_pages`` how many the file has now, ``file_end_page`` the first page behind the file
    after the write.
    """
    if populated_pages >= threshold_pages:
        return True
    if file_pages < PAGES_PER_EXTENT:
        return False
    return file_pages * PAGES_PER_EXTENT >= (file_end_page - PAGES_PER_EXTENT) * threshold_pages
