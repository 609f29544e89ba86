"""The two kinds of packed 8-byte word: map words and owner words.

A map word stands in an inode or in a node page:

* bits 0 to 39: a pfn (or, for a hole in a list of runs, a count of pages);
* bit 40 ``WHOLE``: the pfn is the first page of a whole extent, or of pages inside whole extents;
* bit 41 ``HOLE``: a run of pages that are not there (lists of runs only);
* bits 48 to 63: how many pages the run has (lists of runs only).

In a *list of runs* (MapKind.RUNS) the words describe the file from its page 0 on, one after the
other; the first 0 ends the list, and so does the seventeenth word. In a *tree* (MapKind.TREE) the
17 words of the inode are the root, and every node is a page of 512 words. A node of height 1
maps a 2 MiB piece page by page. A word at height 1, naming a piece, is 0, a node page of height
1, or a whole extent; a word higher up is 0 or a node page. With map height h the root words
are at height h.

A directory word (root word 0 of a directory, and the 512 words of its nodes) is 0, a leaf page,
or with bit 40 ``NODE`` a node page.

An owner word stands in page 0 of a small or metadata extent, one for each page: the inode number
in bits 0 to 31, never 0; in bits 32 to 63 the page index in the file (small), or the `Role`
(metadata). Zero is free. Word 0, the owner page's own, is 0.
"""

from __future__ import annotations

PFN_MASK = (1 << 40) - 1
WHOLE = 1 << 40
HOLE = 1 << 41
NODE = 1 << 40
COUNT_SHIFT = 48
MAX_RUN_PAGES = (1 << 16) - 1

INO_MASK = (1 << 32) - 1


def owner_word(ino: int, index: int) -> int:
    """Return the owner word of page ``index`` of file ``ino``."""
    return ino | index << 32


def owner_ino(word: int) -> int:
    """Return the inode number of an owner word, 0 for a free page."""
    return word & INO_MASK


def owner_index(word: int) -> int:
    """Return the page index in the file, or the role of a metadata page."""
    return word >> 32
