"""Check one leaf page of a directory: header, slots, names and cookies.

Nothing outside the page is looked at; what the entries name is for `directories`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from pmemfs.fsck.report import Finding, show_name
from pmemfs.layout.geometry import PAGE_BYTES, pfn_to_offset
from pmemfs.layout.records import DIRECTORY_LEAF, DIRECTORY_SLOT

COOKIE_BITS = 63
NUMBER_MASK = 0xFF  # the bits of a cookie that tell equal hashes apart
_HASH_MASK = (1 << COOKIE_BITS) - 1 - NUMBER_MASK
_ZERO_HASH = 1 << 8  # stands for a hash of zero


class Entry(NamedTuple):
    """One live entry of a leaf."""

    cookie: int
    ino: int
    type: int
    name: bytes
    offset: int


def name_hash(name: bytes, seed: bytes) -> int:
    """Return the cookie of a name, but for the number that tells equals apart."""
    digest = hashlib.blake2b(name, key=seed, digest_size=8).digest()
    return int.from_bytes(digest, "little") & _HASH_MASK or _ZERO_HASH


def shared_bits(cookie: int, depth: int) -> int:
    """Return the top ``depth`` of the 63 bits of a cookie, the others zero."""
    return cookie >> (COOKIE_BITS - depth) << (COOKIE_BITS - depth)


class Leaf:
    """One leaf page, taken apart. ``is_usable`` tells whether its header makes sense at all."""

    def __init__(self, ino: int, pfn: int, page: bytes) -> None:
        self.directory = ino
        self.page = page
        self.offset = pfn_to_offset(pfn)
        header = DIRECTORY_LEAF.struct.unpack_from(page)
        self.ino, self.depth, self.slots, self.live = header[:4]
        self.heap, self.garbage, self.prefix, self.reserved = header[4:]
        self.slots_end = DIRECTORY_LEAF.size_bytes + self.slots * DIRECTORY_SLOT.size_bytes
        self.entries: list[Entry] = []
        self._spans: list[tuple[int, int]] = []  # of the names of the entries, in the page
        self.is_usable = self.slots_end <= self.heap <= PAGE_BYTES and self.depth <= COOKIE_BITS

    @property
    def has_own_prefix(self) -> bool:
        """Whether the prefix is no longer than the depth."""
        is_cookie = not self.prefix >> COOKIE_BITS
        return is_cookie and self.prefix == shared_bits(self.prefix, self.depth)

    def check(self, seed: bytes) -> Iterator[Finding]:
        """Yield findings about the page; fill ``entries`` with the live ones."""
        if not self.is_usable:
            yield self._finding("dir-leaf", "has an impossible header")
            return
        if self.ino != self.directory:
            yield self._finding("dir-leaf", f"says that it is of inode {self.ino}")
        if not self.has_own_prefix:
            yield self._finding("dir-leaf", f"has bits of its prefix beyond its depth {self.depth}")
        if self.reserved:
            yield self._finding("dir-leaf", "has reserved bytes that are not zero")
        yield from self._read_entries()
        yield from self._check_space()
        yield from self._check_cookies(seed)

    def _finding(self, check: str, text: str, offset: int | None = None) -> Finding:
        where = self.offset if offset is None else offset
        message = f"a leaf of directory {self.directory} {text}"
        return Finding(check, message, where, self.directory)

    def _read_entries(self) -> Iterator[Finding]:
        live = 0
        unpack, size = DIRECTORY_SLOT.struct.unpack_from, DIRECTORY_SLOT.size_bytes
        for start in range(DIRECTORY_LEAF.size_bytes, self.slots_end, size):
            cookie, ino, name_offset, name_bytes, kind = unpack(self.page, start)
            if not cookie:
                continue
            live += 1
            end = name_offset + name_bytes
            if name_offset < self.heap or end > PAGE_BYTES or not name_bytes:
                text = f"has an entry whose name is {name_bytes} bytes at {name_offset}"
                yield self._finding("dir-leaf", text, self.offset + start)
                continue
            name = self.page[name_offset:end]
            self.entries.append(Entry(cookie, ino, kind, name, self.offset + start))
            self._spans.append((name_offset, end))
            if b"/" in name or b"\0" in name or name in (b".", b".."):
                text = f"has the impossible name {show_name(name)}"
                yield self._finding("dir-name", text, self.offset + start)
        if live != self.live:
            yield self._finding("dir-leaf", f"counts {self.live} entries, it has {live}")

    def _check_space(self) -> Iterator[Finding]:
        """Yield findings if names overlap, or garbage is not what is left of the heap."""
        spans = sorted(self._spans)
        if any(low[1] > high[0] for low, high in pairwise(spans)):
            yield self._finding("dir-leaf", "has names that overlap")
        elif len(self.entries) == self.live:
            garbage = PAGE_BYTES - self.heap - sum(high - low for low, high in spans)
            if garbage != self.garbage:
                text = f"counts {self.garbage} bytes of deleted names, there are {garbage}"
                yield self._finding("dir-leaf", text)

    def _check_cookies(self, seed: bytes) -> Iterator[Finding]:
        cookies: set[int] = set()
        names: set[bytes] = set()
        for entry in self.entries:
            if entry.cookie & ~NUMBER_MASK != name_hash(entry.name, seed):
                text = f"has the name {show_name(entry.name)} with a cookie that is not its own"
                yield self._finding("dir-cookie", text, entry.offset)
            elif shared_bits(entry.cookie, self.depth) != self.prefix:
                text = f"has the name {show_name(entry.name)}, which belongs into another leaf"
                yield self._finding("dir-place", text, entry.offset)
            if entry.cookie in cookies or entry.name in names:
                what = "name" if entry.name in names else "cookie"
                text = f"has the {what} of {show_name(entry.name)} twice"
                yield self._finding("dir-duplicate", text, entry.offset)
            cookies.add(entry.cookie)
            names.add(entry.name)
