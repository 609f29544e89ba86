"""How each finding is mended: the order of the menders.

A mender is called with the tables of a check that found something for it, and proposes repairs
to the draft. After each one the image is checked anew, so a mender sees only damage of its own
layer, on layers below that are clean.
"""

from __future__ import annotations

from collections.abc import Callable

from pmemfs.fsck.mend.chunks import (
    mend_chunks,
    mend_indexes,
    mend_lost_chunks,
    mend_zeros,
)
from pmemfs.fsck.mend.directories import DIRECTORY_CHECKS, mend_directories
from pmemfs.fsck.mend.extents import (
    mend_beyond,
    mend_claimed_extents,
    mend_free_data,
    mend_generations,
    mend_heads,
)
from pmemfs.fsck.mend.filemap import MAP_CHECKS
from pmemfs.fsck.mend.files import XATTR_CHECKS, mend_files
from pmemfs.fsck.mend.inodes import mend_inodes, mend_root
from pmemfs.fsck.mend.links import mend_links, mend_orphans, mend_unreachable
from pmemfs.fsck.mend.mending import Mending
from pmemfs.fsck.mend.owners import mend_counts, mend_unclaimed, mend_words
from pmemfs.fsck.mend.superblock import mend_control, mend_sequence, mend_superblock

_HEADS = ("head-kind", "head-checksum", "head-free", "head-fields", "head-fixed")
_INODES = ("inode-checksum", "inode-type", "inode-map-kind", "inode-size", "inode-fields")
_CONTENTS = (
    "inode-pages",
    "symlink-target",
    *XATTR_CHECKS,
    "map-beyond-size",
)

MENDERS: list[tuple[tuple[str, ...], Callable[[Mending], None]]] = [
    (("superblock-copy", "superblock-fields"), mend_superblock),
    (("control-fields",), mend_control),
    (("control-sequence",), mend_sequence),
    (("head-beyond",), mend_beyond),
    (("head-generation",), mend_generations),
    (_HEADS, mend_heads),
    (("owner-word",), mend_words),
    (("owner-count",), mend_counts),
    (("chunk-index",), mend_indexes),
    (_INODES, mend_inodes),
    (("chunk-zeros",), mend_zeros),
    (("chunk-frontier", "chunk-used", "chunk-chain", "inode-zero"), mend_chunks),
    (("root-missing",), mend_root),
    (("orphan-list",), mend_orphans),
    (("owner-inode", "dir-target"), mend_lost_chunks),
    (("map-extent",), mend_claimed_extents),
    ((*MAP_CHECKS, *_CONTENTS), mend_files),
    ((*MAP_CHECKS, *DIRECTORY_CHECKS, "owner-unmapped"), mend_directories),
    (("owner-unmapped", "owner-inode"), mend_unclaimed),
    (("inode-unreachable",), mend_unreachable),
    (("link-count", "dir-nlink", "dir-parent"), mend_links),
    (("free-data",), mend_free_data),
]
