"""The content of a sparse file in memory: a dict of pages, absent pages are holes.

Invariant: pages are replaced and never changed in place, so images share them, and the digest of
a page is computed once. A page of zeros and a hole are two things: the engine asks its host.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

PAGE_BYTES = 4096
PAGE_SHIFT = 12
_ZERO_PAGE = bytes(PAGE_BYTES)
_DIGEST_MASK = (1 << 64) - 1
_DIGESTS_KEPT = 1 << 14

_digests: dict[bytes, int] = {}


def page_digest(page: bytes) -> int:
    """Return a 64-bit digest of a page (BLAKE2b), the same in every process."""
    digest = _digests.get(page)
    if digest is None:
        if len(_digests) >= _DIGESTS_KEPT:
            _digests.clear()
        raw = hashlib.blake2b(page, digest_size=8).digest()
        digest = _digests[page] = int.from_bytes(raw, "little")
    return digest


def digest_pages(pages: Iterable[tuple[int, bytes]]) -> int:
    """Return a 64-bit digest of pages and their numbers, whatever their order.

    A sum, each page times an odd number of its own; so the digest of a union is the sum of the
    digests, modulo 2**64.
    """
    return sum(page_digest(page) * (2 * number + 1) for number, page in pages) & _DIGEST_MASK


class SparseImage:
    """``size_bytes`` of content as a dict of pages of 4096 bytes."""

    __slots__ = ("pages", "size_bytes")

    def __init__(self, size_bytes: int, pages: dict[int, bytes] | None = None) -> None:
        self.size_bytes = size_bytes
        self.pages = {} if pages is None else dict(pages)

    @classmethod
    def load(cls, fd: int, size_bytes: int) -> SparseImage:
        """Read the data pages of a file, skipping its holes."""
        image = cls(size_bytes)
        for low, high in iter_host_data(fd, size_bytes):
            data = os.pread(fd, high - low, low)
            for start in range(0, high - low, PAGE_BYTES):
                image.pages[(low + start) >> PAGE_SHIFT] = data[start : start + PAGE_BYTES]
        return image

    def copy(self) -> SparseImage:
        """Return a copy; pages are shared."""
        return SparseImage(self.size_bytes, self.pages)

    def digest(self) -> int:
        """Return the 64-bit digest of all pages."""
        return digest_pages(self.pages.items())

    def page(self, number: int) -> bytes:
        """Return a page; zeros for a hole."""
        return self.pages.get(number, _ZERO_PAGE)

    def word(self, address: int) -> bytes:
        """Return the aligned 8-byte word at a byte address."""
        start = address % PAGE_BYTES
        return self.page(address >> PAGE_SHIFT)[start : start + 8]

    def store(self, offset: int, data: bytes) -> None:
        """Replace bytes; the range may cross pages."""
        position = 0
        while position < len(data):
            number, start = divmod(offset + position, PAGE_BYTES)
            chunk = data[position : position + PAGE_BYTES - start]
            page = self.page(number)
            self.pages[number] = page[:start] + chunk + page[start + len(chunk) :]
            position += len(chunk)

    def punch(self, offset: int, length: int) -> None:
        """Turn whole pages into holes."""
        for number in range(offset >> PAGE_SHIFT, (offset + length) >> PAGE_SHIFT):
            self.pages.pop(number, None)

    def materialise(self) -> int:
        """Return the descriptor of an anonymous file with this content; the caller closes it."""
        fd = os.memfd_create("pmemfs-crash")
        os.ftruncate(fd, self.size_bytes)
        for number, page in self.pages.items():
            os.pwrite(fd, page, number * PAGE_BYTES)
        return fd


def iter_host_data(fd: int, size_bytes: int) -> Iterable[tuple[int, int]]:
    """Iterate the ``(start, stop)`` ranges that are not holes, of the first bytes of a file."""
    position = 0
    while position < size_bytes:
        try:
            low = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: no data behind this position
            return
        if low >= size_bytes:
            return
        position = min(os.lseek(fd, low, os.SEEK_HOLE), size_bytes)
        yield low, position
