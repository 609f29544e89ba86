"""Directories: a trie over a keyed hash of the names, with leaf pages of entries.

The form is in FORMAT.md. Cost, for a directory of n entries: finding, adding and removing one
visit one word per 9 bits of hash in use (two for 100,000 entries) and one leaf; nothing depends
on n. A leaf that overflows is split in two; an empty one is merged with its buddy, so an empty
directory has no pages. Removing allocates nothing.

No page is read before its owner word says that it is a leaf, or a node, of this directory. A
listing takes each leaf at the one prefix that stands in it, so it ends on any image.

A cookie is the position of an entry for readdir: it never changes while the entry exists, so a
listing that goes on from a cookie neither repeats nor misses an entry that was there all the
time, whatever comes and goes meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import NamedTuple

from pmemfs.device import MappedDevice
from pmemfs.errors import no_space
from pmemfs.fs import leaf
from pmemfs.fs.inodes import Inode
from pmemfs.fs.leaf import Entry, damaged_directory
from pmemfs.journal import Transaction
from pmemfs.layout.geometry import EXTENT_PAGE_SHIFT, PAGE_BYTES, PAGE_SHIFT, WORDS_PER_PAGE
from pmemfs.layout.records import DIRECTORY_SLOT, Kind, Role
from pmemfs.layout.words import NODE, PFN_MASK, owner_word
from pmemfs.pages import Arena, ExtentPool
from pmemfs.pages.arenas import free_metadata

_HASH_BITS = 63
_NODE_BITS = 9
_MAX_DEPTH = 54  # six nodes; what shares more of 55 hash bits than that is not split further
_HASH_MASK = ((1 << 63) - 1) & ~0xFF
_LEAF_ROLE = int(Role.DIRECTORY_LEAF)
_METADATA = int(Kind.METADATA)
_NODE_ROLE = int(Role.DIRECTORY_NODE)
COOKIE_DOT = 1
COOKIE_DOT_DOT = 2

_HASHES_KEPT = 1024

_unpack_slot = DIRECTORY_SLOT.struct.unpack_from


def _hash(hasher: hashlib.blake2b, name: bytes) -> int:
    hasher = hasher.copy()
    hasher.update(name)
    return int.from_bytes(hasher.digest(), "little") & _HASH_MASK or 1 << 8


class Found(NamedTuple):
    """Where an entry stands: its leaf page and the byte in it that its slot starts at."""

    ino: int
    type: int
    cookie: int
    pfn: int
    slot_start: int


class _Step(NamedTuple):
    """A word of the trie on the way to a leaf; node 0 is the inode. ``bits`` lie above it."""

    node: int
    slot: int
    bits: int


class Directories:
    """The entries of all directories of a volume."""

    def __init__(
        self, device: MappedDevice, pool: ExtentPool, metadata: Arena, hash_seed: bytes
    ) -> None:
        self._device = device
        self._pool = pool
        self._metadata = metadata
        # an operation asks for the hash of a name more than once, and the next is about it, too
        self._hash = lru_cache(_HASHES_KEPT)(
            partial(_hash, hashlib.blake2b(digest_size=8, key=hash_seed))
        )

    def hash(self, name: bytes) -> int:
        """Return the cookie a name has when no other name of equal hash is there."""
        return self._hash(name)

    # -- finding -----------------------------------------------------------------------------

    def find(self, directory: Inode, name: bytes) -> Found | None:
        """Return where a name stands, or None."""
        cookie = self.hash(name)
        word = self._leaf_word(directory, cookie)
        if not word:
            return None
        start = self._leaf_pfn(directory, word) << PAGE_SHIFT
        page = self._device.view[start : start + PAGE_BYTES]
        slot = leaf.find_slot(self._device.find, page, start, cookie, name)
        if slot < 0:
            return None
        cookie, ino, _, _, file_type = _unpack_slot(page, slot)
        return Found(ino, file_type, cookie, start >> PAGE_SHIFT, slot)

    def _leaf_word(self, directory: Inode, cookie: int) -> int:
        """Return the word of the leaf that a cookie belongs to, 0 in an empty directory."""
        word = directory.words[0]
        shift = _HASH_BITS - _NODE_BITS
        words = self._device.words
        while word & NODE:
            if shift < 0:
                raise damaged_directory(directory.ino)
            node = self._validated(directory, word, _NODE_ROLE) << EXTENT_PAGE_SHIFT
            word = words[node + (cookie >> shift & (WORDS_PER_PAGE - 1))]
            shift -= _NODE_BITS
        return word

    def _leaf_pfn(self, directory: Inode, word: int) -> int:
        return self._validated(directory, word, _LEAF_ROLE)

    def _validated(
        self, directory: Inode, word: int, role: int, tx: Transaction | None = None
    ) -> int:
        """Return the pfn of a word; the page must say that it is this one's, or be ``tx``'s own."""
        pfn = word & PFN_MASK
        if tx is not None and pfn in tx.fresh:
            return pfn
        if not self._pool.holds_page(pfn, _METADATA, directory.ino | role << 32):
            raise damaged_directory(directory.ino)
        return pfn

    def _shape(self, tx: Transaction, directory: Inode, word: int) -> leaf.Shape:
        return leaf.read_shape(tx.page(self._validated(directory, word, _LEAF_ROLE, tx)))

    def iter_entries(self, directory: Inode, after: int) -> Iterator[Entry]:
        """Iterate entries with cookies above ``after``, in the order of their cookies."""
        position = after + 1
        while position < 1 << _HASH_BITS:
            word = self._leaf_word(directory, position)
            if not word:
                return
            start = self._leaf_pfn(directory, word) << PAGE_SHIFT
            page = bytes(self._device.view[start : start + (1 << PAGE_SHIFT)])
            shape = leaf.read_shape(page)
            rest = _HASH_BITS - shape.depth
            if shape.depth > _MAX_DEPTH or shape.prefix != position >> rest << rest:
                raise damaged_directory(directory.ino)
            end = shape.prefix + (1 << rest)
            yield from sorted(e for e in leaf.read_entries(page) if position <= e.cookie < end)
            position = end

    # -- adding ------------------------------------------------------------------------------

    def insert(
        self, tx: Transaction, directory: Inode, name: bytes, ino: int, file_type: int
    ) -> None:
        """Add an entry; the name must not be there. The caller guards and puts the directory.

        Raises `PmemfsError` with ENOSPC when a page is needed and none is to be had.
        """
        cookie = self.hash(name)
        path, word = self._walk(tx, directory, cookie)
        if not word:
            entry = Entry(cookie, ino, file_type, name)
            self._set(tx, directory, path[-1], self._new_leaf(tx, directory, 0, 0, [entry]))
            return
        pfn = self._validated(directory, word, _LEAF_ROLE, tx)
        entry = Entry(self._free_cookie(tx, pfn, cookie), ino, file_type, name)
        while not leaf.add(tx, pfn, entry):
            self._split(tx, directory, path, pfn)
            path, word = self._walk(tx, directory, cookie)
            pfn = self._validated(directory, word, _LEAF_ROLE, tx)

    def _walk(self, tx: Transaction, directory: Inode, cookie: int) -> tuple[list[_Step], int]:
        """Return the steps to the leaf of a cookie, and the leaf's word or 0."""
        path = [_Step(0, 0, 0)]
        word = directory.words[0]
        bits = 0
        while word & NODE:
            bits += _NODE_BITS
            if bits > _MAX_DEPTH:
                raise damaged_directory(directory.ino)
            node = self._validated(directory, word, _NODE_ROLE, tx)
            slot = cookie >> (_HASH_BITS - bits) & (WORDS_PER_PAGE - 1)
            path.append(_Step(node, slot, bits - _NODE_BITS))
            word = tx.word(node, slot)
        return path, word

    def _free_cookie(self, tx: Transaction, pfn: int, cookie: int) -> int:
        page = tx.page(pfn)
        find, start = self._finder(page, pfn)
        if not leaf.has_hash(find, page, start, cookie):
            return cookie
        equal = {e.cookie for e in leaf.read_entries(page)}
        for number in range(256):
            if cookie | number not in equal:
                return cookie | number
        raise no_space("a directory cannot hold more names of one hash")

    def _finder(self, page: leaf.Page, pfn: int) -> tuple[leaf.Find, int]:
        """Return what searches a page of a transaction, and where the page begins for it."""
        if isinstance(page, bytearray):
            return page.find, 0
        return self._device.find, pfn << PAGE_SHIFT

    def _new_page(self, tx: Transaction, directory: Inode, role: Role) -> int:
        ((pfn, _),) = self._metadata.allocate(tx, 1, owner_word(directory.ino, role), 0)
        tx.fresh_page(pfn)
        return pfn

    def _new_leaf(
        self, tx: Transaction, directory: Inode, depth: int, prefix: int, entries: list[Entry]
    ) -> int:
        pfn = self._new_page(tx, directory, Role.DIRECTORY_LEAF)
        tx.fresh[pfn][:] = leaf.build(directory.ino, depth, prefix, entries)
        return pfn

    def _set(self, tx: Transaction, directory: Inode, step: _Step, word: int) -> None:
        if step.node:
            tx.set_word(step.node, step.slot, word)
        else:
            directory.words[0] = word

    def _split(self, tx: Transaction, directory: Inode, path: list[_Step], pfn: int) -> None:
        """Split a full leaf by the next bit of the hash, under a new node where it needs one."""
        shape = leaf.read_shape(tx.page(pfn))
        depth = shape.depth
        if depth >= _MAX_DEPTH:
            raise no_space("a directory cannot hold more names of one hash")
        step = path[-1]
        covered = step.bits + _NODE_BITS if step.node else 0
        if not step.bits <= depth <= covered:
            raise damaged_directory(directory.ino)
        if depth == covered:
            step = self._push_down(tx, directory, step, pfn, depth)
        bit = 1 << _HASH_BITS - 1 - depth
        entries = leaf.read_entries(tx.page(pfn))
        high = [e for e in entries if e.cookie & bit]
        low = [e for e in entries if not e.cookie & bit]
        width = 1 << step.bits + _NODE_BITS - depth - 1
        self._validate_words(tx, directory, step, shape, [pfn] * (2 * width))
        new = self._new_leaf(tx, directory, depth + 1, shape.prefix | bit, high)
        tx.patch(pfn, 0, leaf.build(directory.ino, depth + 1, shape.prefix, low))
        first = (shape.prefix | bit) >> (_HASH_BITS - step.bits - _NODE_BITS)
        first &= WORDS_PER_PAGE - 1
        tx.patch(step.node, first * 8, new.to_bytes(8, "little") * width)

    @staticmethod
    def _validate_words(
        tx: Transaction, directory: Inode, step: _Step, shape: leaf.Shape, wanted: list[int]
    ) -> None:
        """Raise `DamagedImageError` unless the words for a prefix are those that it stands in.

        They are about to be overwritten: what stood there but should not would be lost.
        """
        first = shape.prefix >> (_HASH_BITS - step.bits - _NODE_BITS) & (WORDS_PER_PAGE - 1)
        first &= -len(wanted)
        found = bytes(tx.page(step.node)[first * 8 : (first + len(wanted)) * 8])
        if found != b"".join(word.to_bytes(8, "little") for word in wanted):
            raise damaged_directory(directory.ino)

    def _push_down(
        self, tx: Transaction, directory: Inode, step: _Step, pfn: int, depth: int
    ) -> _Step:
        """Put a node between a word and its leaf; all words of the node name the leaf."""
        node = self._new_page(tx, directory, Role.DIRECTORY_NODE)
        tx.fresh[node][:] = pfn.to_bytes(8, "little") * WORDS_PER_PAGE
        self._set(tx, directory, step, node | NODE)
        return _Step(node, 0, depth)

    # -- changing and removing ---------------------------------------------------------------

    def replace(self, tx: Transaction, found: Found, ino: int, file_type: int) -> None:
        """Let an entry name another inode."""
        offset = found.slot_start + DIRECTORY_SLOT.offset_of["ino"]
        tx.patch(found.pfn, offset, ino.to_bytes(4, "little"))
        offset = found.slot_start + DIRECTORY_SLOT.offset_of["type"]
        tx.patch(found.pfn, offset, bytes([file_type]))

    def remove(self, tx: Transaction, directory: Inode, name: bytes) -> None:
        """Remove an entry that is there. The caller guards and puts the directory.

        Sees what the same transaction has done to the directory. Allocates nothing.
        """
        cookie = self.hash(name)
        path, word = self._walk(tx, directory, cookie)
        pfn = self._validated(directory, word, _LEAF_ROLE, tx)
        page = tx.page(pfn)
        find, base = self._finder(page, pfn)
        start = leaf.find_slot(find, page, base, cookie, name)
        if start < 0:
            raise damaged_directory(directory.ino)
        if leaf.remove(tx, pfn, start) == 0:
            self._merge(tx, directory, path, pfn)

    def _merge(self, tx: Transaction, directory: Inode, path: list[_Step], pfn: int) -> None:
        """Merge an empty leaf with its buddy, upwards as long as one of the two is empty."""
        while True:
            shape = leaf.read_shape(tx.page(pfn))
            step = path[-1]
            if not step.bits <= shape.depth <= step.bits + _NODE_BITS:
                raise damaged_directory(directory.ino)
            if shape.depth == step.bits:  # it has all the words of its node
                if not step.node:
                    if shape.live == 0:
                        self._free_page(tx, directory, pfn, _LEAF_ROLE)
                        directory.words[0] = 0
                    return
                self._validate_words(tx, directory, step, shape, [pfn] * WORDS_PER_PAGE)
                path.pop()
                self._set(tx, directory, path[-1], pfn)
                self._free_page(tx, directory, step.node, _NODE_ROLE)
                continue
            survivor = self._merge_with_buddy(tx, directory, step, pfn, shape)
            if survivor is None:
                return
            pfn = survivor

    def _merge_with_buddy(
        self, tx: Transaction, directory: Inode, step: _Step, pfn: int, shape: leaf.Shape
    ) -> int | None:
        width = 1 << step.bits + _NODE_BITS - shape.depth
        first = shape.prefix >> (_HASH_BITS - step.bits - _NODE_BITS) & (WORDS_PER_PAGE - 1)
        buddy = tx.word(step.node, first ^ width)
        if buddy & NODE:
            return None
        other = self._shape(tx, directory, buddy)
        if other.depth != shape.depth or (shape.live and other.live):
            return None
        survivor, empty = (buddy & PFN_MASK, pfn) if shape.live == 0 else (pfn, buddy & PFN_MASK)
        both = first & ~width
        low, high = (pfn, buddy) if first == both else (buddy, pfn)
        self._validate_words(tx, directory, step, shape, [low] * width + [high] * width)
        tx.patch(step.node, both * 8, survivor.to_bytes(8, "little") * (2 * width))
        leaf.set_depth(tx, survivor, shape.depth - 1)
        self._free_page(tx, directory, empty, _LEAF_ROLE)
        return survivor

    def _free_page(self, tx: Transaction, directory: Inode, pfn: int, role: int) -> None:
        free_metadata(self._pool, tx, pfn, owner_word(directory.ino, role))
