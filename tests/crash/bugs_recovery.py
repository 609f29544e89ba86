"""Seeded bugs in the orphan list, in recovery, and in mounting and unmounting."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from types import SimpleNamespace
from typing import Any

from crash_anatomy import Events
from crash_bug import By, patched, patches, rewrites
from crash_damage import DAMAGED

from pmemfs.device import Event
from pmemfs.fs import volume
from pmemfs.fs.inodes import Inode, InodeTable
from pmemfs.fs.orphans import Orphans
from pmemfs.journal import Transaction, journal, recovery
from pmemfs.layout.geometry import CONTROL_OFFSET
from pmemfs.layout.records import CONTROL


@patches("unlink-held", "unlink-two-held")
def orphan_not_listed() -> AbstractContextManager[Any]:
    def add(self: Orphans, tx: Transaction, inode: Inode) -> None:
        self._before[inode.ino] = 0
        self._inodes.put(tx, inode)

    return patched(Orphans, "add", add)


@patches("orphan-work-middle", "release-two-held")
def orphan_list_cut() -> AbstractContextManager[Any]:
    """Taking one off forgets those behind it."""

    def set_first(self: Orphans, tx: Transaction, ino: int) -> None:
        tx.put(CONTROL_OFFSET + CONTROL.offset_of["orphan_first"], bytes(8))
        self._first = 0

    return patched(Orphans, "_set_first", set_first)


@patches("release-held", "orphan-work-unlinked")
def orphan_off_before_freed() -> AbstractContextManager[Any]:
    work = Orphans.work

    def work_in_two(self: Orphans, inode: Inode) -> None:
        with self._journal.transaction() as tx:
            self.take_off(tx, inode)
            self._inodes.put(tx, inode)
        with self._journal.transaction() as tx:
            self.add(tx, inode)
        work(self, inode)

    return patched(Orphans, "work", work_in_two)


@patches("truncate-long-nameless")
def nameless_not_listed_while_cut() -> AbstractContextManager[Any]:
    """It is lost when the cut takes more than one transaction and the second never comes."""
    trim = Orphans.trim

    def trim_unlisted(self: Orphans, inode: Inode) -> None:
        with self._journal.transaction() as tx:
            self.take_off(tx, inode)
            self._inodes.put(tx, inode)
        trim(self, inode)
        with self._journal.transaction() as tx:
            self.add(tx, inode)

    return patched(Orphans, "trim", trim_unlisted)


@patches("create-reuse", "unlink-small")
def free_chain_in_place() -> AbstractContextManager[Any]:
    """The chain of free inodes changes before its transaction does."""
    put = InodeTable._put_chunk

    def put_chunk(self: InodeTable, tx: Transaction, number: int, chunk: Any) -> None:
        put(self, tx, number, chunk)
        head = self._pool.geometry.head_offset(chunk.extent)
        record = tx.records.pop(head)
        self._device.store(head, record)
        self._device.flush(head, len(record))

    return patched(InodeTable, "_put_chunk", put_chunk)


# -- mount, recovery, unmount -------------------------------------------------------------------

_COMMITTED = "mount:reuse-inode"
"""The mount of an image with a committed transaction none of whose homes are there."""


@patches("create")
def replay_skipped() -> AbstractContextManager[Any]:
    return patched(volume, "recover", lambda device: None)


@patches(DAMAGED + "rename-absent", by=By.JOURNAL)
def journal_checksum_ignored() -> AbstractContextManager[Any]:
    class Anything(int):
        def __ne__(self, other: object) -> bool:
            return False

    stack = ExitStack()
    ignoring = SimpleNamespace(crc32=lambda data: Anything())
    stack.enter_context(patched(recovery, "zlib", ignoring))
    stack.enter_context(patched(recovery, "is_sealed", lambda record, view, offset: True))
    return stack


@patches("punch-unaligned")
def replay_skips_zeros() -> AbstractContextManager[Any]:
    return patched(recovery, "store_zeros", lambda device, offset, length: None)


@rewrites(_COMMITTED)
def recovery_not_flushed(events: Events) -> Events:
    """The log is given up before the homes are durable."""
    end = next(n for n, event in enumerate(events) if event.offset == journal.COMMITTED_OFFSET)
    return [e for n, e in enumerate(events) if n >= end or e.kind != "flush"]


@rewrites(_COMMITTED)
def recovery_retires_first(events: Events) -> Events:
    number = next(n for n, event in enumerate(events) if event.offset == journal.COMMITTED_OFFSET)
    return events[number - 1 : number + 3] + events[: number - 1] + events[number + 3 :]


@patches("split", "read-relatime")
def generation_not_raised() -> AbstractContextManager[Any]:
    begin = volume.Volume._begin_mount

    def begin_mount(self: volume.Volume) -> None:
        control = self.image.control()
        with patched(self.image, "control", lambda: {**control, "generation": 0}):
            begin(self)

    return patched(volume.Volume, "_begin_mount", begin_mount)


@rewrites("unmount-orphans")
def clean_before_retired(events: Events) -> Events:
    """The image is called clean while there is a transaction to replay."""
    state = CONTROL_OFFSET + CONTROL.offset_of["state"]
    closing = [event for event in events if event.offset == state]
    return [Event("fence"), *closing, Event("fence"), *events]
