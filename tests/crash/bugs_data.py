"""Seeded bugs in what has to be stored before a commit, and in what a commit frees."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

from crash_anatomy import Events, anatomy, delayed, moved, without
from crash_bug import By, patched, patches, rewrites

from pmemfs.fs.files import Files
from pmemfs.fs.inodes import Inode, Run
from pmemfs.fs.xattrs import Xattrs, _pack
from pmemfs.journal import Transaction, journal
from pmemfs.layout.geometry import PAGE_SHIFT, extent_to_offset
from pmemfs.layout.records import NOTHING_TO_REPLAY
from pmemfs.pages import ExtentPool


@rewrites("write-new")
def data_not_flushed(events: Events) -> Events:
    return without(events, "data", "flush")


@rewrites("append-across-page")
def size_before_pages(events: Events) -> Events:
    """Data is stored when the new size is committed already."""
    return delayed(events, "data", "settle")


@rewrites("promote")
def promotion_not_flushed(events: Events) -> Events:
    """The copy is not durable when the pages it was made from are freed."""
    return without(events, "data", "flush", only=0)


@rewrites("demote", "move-out")
def moved_data_not_flushed(events: Events) -> Events:
    """A move is committed before its copy is durable."""
    return without(events, "data", "flush")


@rewrites("xattr-first")
def fresh_page_not_flushed(events: Events) -> Events:
    return without(events, "data", "flush")


@rewrites("write-new")
def owner_word_before_data(events: Events) -> Events:
    """The owner words of new pages stored in place, ahead of the transaction."""
    words = [
        event
        for part, event in anatomy(events)
        if part == "home" and event.offset >= extent_to_offset(5) and not event.offset % 8
    ]
    return [*words, *events]


@rewrites("write-to-freed-page")
def zeros_left_out(events: Events) -> Events:
    """What the last owner wrote shows around the data of a reused page."""
    return [
        event
        for part, event in anatomy(events)
        if part != "data" or event.kind != "store" or any(event.data)
    ]


@patches("xattr-replace")
def xattrs_in_place() -> AbstractContextManager[Any]:
    replace_whole = Xattrs._replace

    def replace_(self: Xattrs, tx: Transaction, inode: Inode, attributes: dict) -> None:
        if not (inode.xattr and attributes):
            return replace_whole(self, tx, inode, attributes)
        content = _pack(inode.ino, attributes)
        self._device.store(inode.xattr << PAGE_SHIFT, content)
        self._device.flush(inode.xattr << PAGE_SHIFT, len(content))

    return patched(Xattrs, "_replace", replace_)


@rewrites("truncate-up-garbage", "append-behind-garbage")
def growth_zeroed_late(events: Events) -> Events:
    """What lies behind the old end of a file is zeroed when the new end is committed already."""
    return delayed(events, "data", "settle")


@rewrites("overwrite-fsync")
def fsync_without_flush(events: Events) -> Events:
    return without(events, "data", "flush")


@rewrites("overwrite-fsync")
def fsync_without_fence(events: Events) -> Events:
    return without(events, "fence", only=-1)


@patches("two-extents-fsync")
def fsync_of_one_extent() -> AbstractContextManager[Any]:
    """What a file has dirty in other extents is left to somebody else."""

    def fsync(self: Files, inode: Inode) -> None:
        for extent in sorted(inode.dirty)[:1]:
            self._tables.flush_dirty(extent)
        inode.dirty.clear()
        self._device.fence()

    return patched(Files, "fsync", fsync)


@patches("two-runs")
def second_run_not_flushed() -> AbstractContextManager[Any]:
    """Of the pages that a write gets, only the first in a row are durable before the commit."""
    write_small, store_new = Files._write_small, Files._store_new
    stored: list[Run] = []

    def write(self: Files, *arguments: Any) -> None:
        stored.clear()
        write_small(self, *arguments)

    def store(self: Files, run: Run, *arguments: Any) -> None:
        stored.append(run)
        flush = self._device.flush if len(stored) == 1 else lambda offset, length: None
        with patched(self._device, "flush", flush):
            store_new(self, run, *arguments)

    stack = ExitStack()
    stack.enter_context(patched(Files, "_write_small", write))
    stack.enter_context(patched(Files, "_store_new", store))
    return stack


@rewrites("punch-then-overwrite")
def zeros_not_retired(events: Events) -> Events:
    """Zeros over file data are replayed over what was written there since."""
    stores = [
        number
        for number, event in enumerate(events)
        if event.kind == "store"
        and event.offset == journal.COMMITTED_OFFSET
        and int.from_bytes(event.data, "little") & NOTHING_TO_REPLAY
    ]
    gone = {number + k for number in stores for k in (0, 1)}
    return [event for number, event in enumerate(events) if number not in gone]


# -- space --------------------------------------------------------------------------------------


@rewrites("reuse-discarded")
def discard_before_its_free(events: Events) -> Events:
    """The free of the extents is not durable yet."""
    return moved(events, "discard", "order")


@rewrites("take-returned", by=By.RULE)
def discard_not_fenced(events: Events) -> Events:
    """The extent is stored to while its discard may still land."""
    number = next(n for n, event in enumerate(events) if event.kind == "discard")
    return events[: number + 1] + events[number + 2 :]


@rewrites("take-returned", "reuse-extent")
def returned_taken_as_it_is(events: Events) -> Events:
    """An extent has a new owner, and what the last one stored in it."""
    return without(events, "discard")


@patches("write-whole-new")
def free_data_not_suspected() -> AbstractContextManager[Any]:
    """After a crash, free extents are taken for zeros."""
    return patched(ExtentPool, "suspect_free_data", lambda self: 0)


@patches("unlink-small")
def pages_not_freed() -> AbstractContextManager[Any]:
    return patched(Files, "free_runs", lambda self, tx, inode, runs: None)
