"""One atomic change: byte ranges to store, pages to fill, and what to do on commit or abort.

A transaction collects; nothing reaches the device before `pmemfs.journal.Journal` commits it,
but for bytes that no committed state refers to: file data in newly allocated pages, which the
file code stores itself, and *fresh* metadata pages. So an operation that finds no space half-way
leaves the device as it was, and ``undo`` makes what is kept in memory agree with it again.

Metadata pages that a transaction changes more than once are read back through it: `page` and
`word` see its own changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pmemfs.device import MappedDevice
from pmemfs.layout.geometry import EXTENT_PAGE_SHIFT, PAGE_BYTES, PAGE_SHIFT


class Transaction:
    """Changes to be made together; built by one operation, committed once.

    A context manager: the end of the block commits, an exception aborts.
    """

    __slots__ = (
        "_commit",
        "_device",
        "_fail",
        "_pages",
        "after",
        "freed",
        "fresh",
        "records",
        "stores",
        "undo",
        "zeros",
    )

    def __init__(
        self,
        device: MappedDevice,
        commit: Callable[[Transaction], None],
        fail: Callable[[str], None],
    ) -> None:
        self._device = device
        self._commit = commit
        self._fail = fail
        self._pages: dict[int, bytearray] = {}
        self.freed: set[int] = set()  # first pages of what was freed: nothing is freed twice
        self.fresh: dict[int, bytearray] = {}
        self.records: dict[int, bytes] = {}
        self.stores: list[tuple[int, bytes]] = []
        self.zeros: list[tuple[int, int]] = []
        self.after: list[Callable[[], Any]] = []
        self.undo: list[Callable[[], Any]] = []

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            try:
                self._commit(self)
            except BaseException:
                self.abort()
                raise
            for action in self.after:
                action()
        else:
            self.abort()

    def put(self, offset: int, record: bytes) -> None:
        """Redo a whole record at ``offset``; a later one at the same place replaces it."""
        self.records[offset] = record

    def store(self, offset: int, data: bytes) -> None:
        """Redo bytes that this transaction does not read back."""
        self.stores.append((offset, data))

    def zero(self, offset: int, length: int) -> None:
        """Redo zeros over file data; the transaction is retired before it returns."""
        self.zeros.append((offset, length))

    def fresh_page(self, pfn: int) -> bytearray:
        """Return the zeroed content of a page this transaction allocated, to be filled.

        It is stored before the commit point, without a journal entry.
        """
        page = self.fresh[pfn] = self._pages[pfn] = bytearray(PAGE_BYTES)
        return page

    def page(self, pfn: int) -> bytearray | memoryview:
        """Return a metadata page as this transaction sees it; not to be written to."""
        page = self._pages.get(pfn)
        if page is not None:
            return page
        start = pfn << PAGE_SHIFT
        return self._device.view[start : start + PAGE_BYTES]

    def word(self, pfn: int, index: int) -> int:
        """Return word ``index`` of a metadata page as this transaction sees it."""
        page = self._pages.get(pfn)
        if page is None:
            return self._device.words[(pfn << EXTENT_PAGE_SHIFT) + index]
        return int.from_bytes(page[index * 8 : index * 8 + 8], "little")

    def patch(self, pfn: int, start: int, data: bytes | bytearray) -> None:
        """Change bytes of a metadata page from byte ``start`` on."""
        page = self._pages.get(pfn)
        offset = pfn << PAGE_SHIFT
        if page is None:
            page = self._pages[pfn] = bytearray(self._device.view[offset : offset + PAGE_BYTES])
        page[start : start + len(data)] = data
        if pfn not in self.fresh:
            self.stores.append((offset + start, bytes(data)))

    def set_word(self, pfn: int, index: int, value: int) -> None:
        """Change one word of a metadata page."""
        self.patch(pfn, index * 8, value.to_bytes(8, "little"))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.records or self.stores or self.zeros or self.fresh)

    def abort(self) -> None:
        """Make the state in memory agree with the device again, or tell the journal that it does
        not: nothing may be committed on top of that.
        """
        for action in reversed(self.undo):
            try:
                action()
            except Exception as error:  # the others must be undone, too
                self._fail(f"what memory keeps cannot be undone: {error}")
