"""How often each inode is held: a hold keeps it alive when it has no name left.

The kernel holds every inode it remembers, by the million. So a count takes 8 bytes in an array for
each chunk of inodes, and an array goes with its last hold.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from pmemfs.errors import InvariantError
from pmemfs.layout.geometry import INODE_CHUNK_SHIFT, INODES_PER_EXTENT

_SLOT_MASK = INODES_PER_EXTENT - 1
_NONE = array("Q", bytes(8 * INODES_PER_EXTENT))


class Holds:
    """Counts by inode number; 0 for one that is not held."""

    def __init__(self) -> None:
        self._counts: dict[int, array[int]] = {}
        self._held: dict[int, int] = {}  # chunk: how many of its inodes are held

    def __getitem__(self, ino: int) -> int:
        return self._counts.get(ino >> INODE_CHUNK_SHIFT, _NONE)[ino & _SLOT_MASK]

    def __contains__(self, ino: int) -> bool:
        return self[ino] != 0

    def __iter__(self) -> Iterator[int]:
        """The numbers of the inodes that are held, in no order worth relying on."""
        for chunk, counts in self._counts.items():
            base = chunk << INODE_CHUNK_SHIFT
            yield from (base | slot for slot, count in enumerate(counts) if count)

    def __len__(self) -> int:
        """How many inodes are held."""
        return sum(self._held.values())

    def add(self, ino: int, count: int = 1) -> None:
        """Hold an inode ``count`` times more."""
        chunk, slot = ino >> INODE_CHUNK_SHIFT, ino & _SLOT_MASK
        counts = self._counts.get(chunk)
        if counts is None:
            counts = self._counts[chunk] = _NONE[:]
            self._held[chunk] = 0
        if not counts[slot]:
            self._held[chunk] += 1
        counts[slot] += count

    def drop(self, ino: int, count: int = 1) -> bool:
        """Let go of ``count`` holds; tell whether they were the last."""
        left = self[ino] - count
        if left < 0:
            raise InvariantError(f"inode {ino} is let go of more often than it is held")
        chunk = ino >> INODE_CHUNK_SHIFT
        self._counts[chunk][ino & _SLOT_MASK] = left
        if left:
            return False
        self._held[chunk] -= 1
        if not self._held[chunk]:
            del self._counts[chunk], self._held[chunk]
        return True

    def clear(self) -> None:
        """Let go of everything."""
        self._counts.clear()
        self._held.clear()
