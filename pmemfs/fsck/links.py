"""Check what the whole tree must add up to: link counts, parents, reachability, orphans.

Runs last, on the arrays of the inode table alone; an inode is only read again for its
``parent`` field, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.heads import Tick
from pmemfs.fsck.inodes import DIRECTORY, InodeTable
from pmemfs.fsck.report import Finding
from pmemfs.image import Image
from pmemfs.layout.geometry import ROOT_INO


def check_links(inodes: InodeTable) -> Iterator[Finding]:
    """Yield inodes whose link count is not the number of their names."""
    exists = inodes.type != 0
    files = exists & (inodes.type != DIRECTORY)
    for slot in np.flatnonzero(files & (inodes.links != inodes.nlink)).tolist():
        ino, links, nlink = inodes.ino(slot), int(inodes.links[slot]), int(inodes.nlink[slot])
        if links:
            message = f"inode {ino} has the link count {nlink}, but {links} names"
            yield Finding("link-count", message, inodes.offset(ino), ino)
        else:
            message = f"inode {ino} has the link count {nlink}, but no name leads to it"
            yield Finding("inode-unreachable", message, inodes.offset(ino), ino)
    lost = exists & (inodes.nlink == 0) & (inodes.links == 0) & ~inodes.listed
    for slot in np.flatnonzero(lost).tolist():
        ino = inodes.ino(slot)
        message = f"inode {ino} has no names and does not stand on the orphan list"
        yield Finding("inode-unreachable", message, inodes.offset(ino), ino)


def check_directory_links(inodes: InodeTable) -> Iterator[Finding]:
    """Yield directories that the root does not reach, and link counts that are not 2 + children."""
    directories = np.flatnonzero(inodes.type == DIRECTORY)
    parents = inodes.slots(inodes.parent[directories])
    children = np.bincount(parents[parents >= 0], minlength=len(inodes.type))
    nlink = inodes.nlink[directories]
    orphan = (nlink == 0) & (inodes.links[directories] == 0)
    orphan &= directories != inodes.slot(ROOT_INO)
    wrong = ~orphan & (nlink != 2 + children[directories])
    for slot in directories[wrong].tolist():
        ino, count = inodes.ino(slot), int(inodes.nlink[slot])
        message = f"directory {ino} has the link count {count}, not {2 + children[slot]}"
        yield Finding("dir-nlink", message, inodes.offset(ino), ino)
    for slot in directories[~orphan & ~_reachable(inodes, directories, parents)].tolist():
        ino = inodes.ino(slot)
        message = f"directory {ino} cannot be reached from the root"
        yield Finding("inode-unreachable", message, inodes.offset(ino), ino)


def _reachable(
    inodes: InodeTable, directories: NDArray[np.int64], parents: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which directories lead to the root; each step doubles how far up one looks.

    Every directory has at most one parent here, so what does not end at the root ends nowhere
    or in a cycle.
    """
    n = len(directories)
    up = np.full(n + 1, n, np.int64)  # the last stands for "nowhere"
    linked = np.flatnonzero(parents >= 0)
    up[linked] = np.searchsorted(directories, parents[linked])
    root = np.searchsorted(directories, inodes.slot(ROOT_INO))
    if root < n and directories[root] == inodes.slot(ROOT_INO):
        up[root] = root
    else:
        root = np.int64(-1)
    for _ in range(n.bit_length()):
        up = up[up]
    return up[:n] == root


def check_parents(image: Image, inodes: InodeTable, tick: Tick) -> Iterator[Finding]:
    """Yield directories whose ``parent`` is not the directory that names them."""
    for row, chunk in enumerate(inodes.chunks):
        tick(row, len(inodes.chunks))
        slots = inodes.rows_of(row)
        directory = inodes.type[slots] == DIRECTORY
        if not directory.any():
            continue
        records: NDArray[Any] = chunk.read(image)
        named_in = inodes.parent[slots].copy()
        if chunk.first_ino == 0 and len(named_in) > ROOT_INO:
            named_in[ROOT_INO] = ROOT_INO
        wrong = directory & (named_in != 0) & (named_in != records["parent"])
        for place in np.flatnonzero(wrong).tolist():
            ino = chunk.first_ino + place
            message = (
                f"directory {ino} has the parent {records['parent'][place]}, "
                f"but its name is in directory {named_in[place]}"
            )
            yield Finding("dir-parent", message, chunk.offset_of(place), ino)
