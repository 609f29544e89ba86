"""Check directories: the trie of leaves, and what the entries name.

Pages are claimed before they are read and no page can be claimed twice, so a walk ends. Entries
add to ``links`` and set ``parent`` in the inode table; `links` draws the conclusions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.inodes import DIRECTORY, UNKNOWN_TYPE, Chunk, InodeTable
from pmemfs.fsck.leaves import COOKIE_BITS, Entry, Leaf, shared_bits
from pmemfs.fsck.owners import OwnerPages
from pmemfs.fsck.report import Finding, show_name
from pmemfs.layout.geometry import ROOT_INO, WORD_BYTES, WORDS_PER_PAGE, pfn_to_offset
from pmemfs.layout.records import INODE, Role
from pmemfs.layout.words import NODE, PFN_MASK

NODE_BITS = 9
MAX_BITS = COOKIE_BITS - NODE_BITS  # bits above a node that there can be


class DirectoryChecker:
    """Checks directories one by one against the tables of the whole image."""

    def __init__(self, owners: OwnerPages, inodes: InodeTable, hash_seed: bytes) -> None:
        self.owners = owners
        self.inodes = inodes
        self.hash_seed = hash_seed

    def check_chunk(
        self, chunk: Chunk, types: NDArray[np.uint8], records: NDArray[Any]
    ) -> Iterator[Finding]:
        """Yield findings about all directories of one chunk."""
        for place in np.flatnonzero(types == DIRECTORY).tolist():
            walk = _DirectoryWalk(self, chunk.first_ino + place)
            offset = chunk.offset_of(place)
            map_offset = offset + INODE.offset_of["map"]
            words = records["map"][place].tolist()
            if any(words[1:]):
                message = f"directory {walk.ino} has more than one map word"
                yield Finding("map-word", message, map_offset, walk.ino)
            yield from walk.check_word(words[0], 0, 0, map_offset)
            yield from walk.check_count(records[place], offset)


class _DirectoryWalk:
    """One walk of one directory."""

    def __init__(self, checker: DirectoryChecker, ino: int) -> None:
        self.checker = checker
        self.inodes = checker.inodes
        self.ino = ino
        self.entries = 0
        self.broken = False

    def check_count(self, record: Any, offset: int) -> Iterator[Finding]:
        """Yield a finding if the inode does not count the entries that the walk has found."""
        entries = int(record["entries"])
        if entries != self.entries and not self.broken:
            message = f"directory {self.ino} counts {entries} entries, it has {self.entries}"
            yield Finding("dir-entries", message, offset, self.ino)
        elif not entries and int(record["map"][0]) and not self.broken:
            message = f"directory {self.ino} has no entries, but pages"
            yield Finding("dir-entries", message, offset, self.ino)
        elif self.entries and not record["nlink"]:
            message = f"directory {self.ino} has been removed, but has {self.entries} entries"
            yield Finding("dir-entries", message, offset, self.ino)

    def check_word(self, word: int, bits: int, path: int, offset: int) -> Iterator[Finding]:
        """Yield findings about what a directory word refers to.

        ``bits`` of the hash are decided where the word stands; they are those of ``path``.
        """
        if not word:
            return
        if word & ~(PFN_MASK | NODE) or (word & NODE and bits > MAX_BITS):
            self.broken = True
            message = f"the directory word {word:#x} of directory {self.ino} is malformed"
            yield Finding("dir-node", message, offset, self.ino)
            return
        role = Role.DIRECTORY_NODE if word & NODE else Role.DIRECTORY_LEAF
        pfn = word & PFN_MASK
        finding = self.checker.owners.claim_metadata(pfn, self.ino, role)
        if finding is not None:
            self.broken = True
            yield finding
        elif word & NODE:
            yield from self._check_node(pfn, bits, path)
        else:
            yield from self._check_leaf(pfn, bits, path)

    def _check_node(self, pfn: int, bits: int, path: int) -> Iterator[Finding]:
        words = np.frombuffer(self.checker.owners.read_page(pfn), "<u8")
        edges = [0, *(np.flatnonzero(np.diff(words)) + 1).tolist(), WORDS_PER_PAGE]
        for first, stop in pairwise(edges):
            word, count = int(words[first]), stop - first
            offset = pfn_to_offset(pfn) + first * WORD_BYTES
            fold = count.bit_length() - 1  # a leaf in 2 ** fold words decides so many bits less
            if not word:
                message = (
                    f"a node of directory {self.ino} has nothing in words {first} to {stop - 1}"
                )
                yield Finding("dir-node", message, offset, self.ino)
                continue
            even = count == 1 << fold and first % count == 0
            if not even or (word & NODE and count != 1):
                self.broken = True
                message = (
                    f"a node of directory {self.ino} has a page in words {first} to {stop - 1}"
                )
                yield Finding("dir-node", message, offset, self.ino)
                continue
            below = path | first << (COOKIE_BITS - NODE_BITS - bits)
            yield from self.check_word(word, bits + NODE_BITS - fold, below, offset)

    def _check_leaf(self, pfn: int, bits: int, path: int) -> Iterator[Finding]:
        leaf = Leaf(self.ino, pfn, bytes(self.checker.owners.read_page(pfn)))
        if leaf.is_usable and (leaf.depth != bits or shared_bits(leaf.prefix, bits) != path):
            message = (
                f"a leaf of directory {self.ino} has depth {leaf.depth} and prefix "
                f"{leaf.prefix:#x}, but it stands where {bits} bits are {path:#x}"
            )
            yield Finding("dir-node", message, pfn_to_offset(pfn), self.ino)
        yield from leaf.check(self.checker.hash_seed)
        self.broken |= not leaf.is_usable
        self.entries += leaf.live if leaf.is_usable else 0
        if leaf.entries:
            yield from self._check_targets(leaf.entries)

    def _check_targets(self, entries: list[Entry]) -> Iterator[Finding]:
        """Yield entries that name no inode or another type; count the links of the others."""
        inodes = self.inodes
        slots = inodes.slots(np.array([entry.ino for entry in entries], np.uint32))
        found = slots >= 0
        types = np.where(found, inodes.type[slots] if len(inodes.type) else 0, 0)
        claimed = np.array([entry.type for entry in entries])
        wrong = (types == 0) | ((types != claimed) & (types != UNKNOWN_TYPE))
        for place in np.flatnonzero(wrong).tolist():
            yield self._wrong_target(entries[place], int(types[place]))
        np.add.at(inodes.links, slots[types != 0], 1)
        for place in np.flatnonzero(types == DIRECTORY).tolist():
            yield from self._check_subdirectory(entries[place], int(slots[place]))

    def _wrong_target(self, entry: Entry, kind: int) -> Finding:
        who = (
            f"the name {show_name(entry.name)} in directory {self.ino} stands for inode {entry.ino}"
        )
        if not kind:
            return Finding("dir-target", who + ", which does not exist", entry.offset, self.ino)
        why = f" of type {entry.type}, but that has type {kind}"
        return Finding("dir-type", who + why, entry.offset, self.ino)

    def _check_subdirectory(self, entry: Entry, slot: int) -> Iterator[Finding]:
        if entry.ino == ROOT_INO or self.inodes.parent[slot]:
            what = "the root" if entry.ino == ROOT_INO else f"directory {entry.ino}, once more"
            message = f"the name {show_name(entry.name)} in directory {self.ino} stands for {what}"
            yield Finding("dir-twice", message, entry.offset, self.ino)
        else:
            self.inodes.parent[slot] = self.ino
