"""Does the bench see? Bugs made on purpose, each of which it has to catch.

A `Bug` is never in the program's own path. Either it *rewrites* a recording, as if the engine had
left out, added or swapped what passes through the seam; or it *patches* the engine while a
recording is made and its states are checked. To add one, write a function with one of the two
decorators and name the cases, or other recordings, that should show it:

    @rewrites("create", "write-new")
    def slot_not_flushed(events):
        return without(events, "slot", "flush")

    @patches("create")
    def recovery_skipped():
        return patched(volume, "recover", lambda device: None)

A bug that no crash can show, because what it leaves out is done again before it matters, is not
counted, unless the lint sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import click
from crash_anatomy import Events, anatomy, delayed, moved, without
from crash_damage import DAMAGED, check_damaged_journal
from crash_lint import read_table
from crash_names import recording_of
from crash_oracle import Crasher, Oracle
from rich.console import Console
from rich.table import Table

from pmemfs.device import Event
from pmemfs.errors import InvariantError
from pmemfs.fs import volume
from pmemfs.fs.files import Files
from pmemfs.fs.inodes import Inode, InodeTable
from pmemfs.fs.namespace import Namespace
from pmemfs.fs.orphans import Orphans
from pmemfs.fs.xattrs import Xattrs, _pack
from pmemfs.fsck import journal as fsck_journal
from pmemfs.journal import Transaction, journal, recovery
from pmemfs.layout.geometry import CONTROL_OFFSET, PAGE_SHIFT, extent_to_offset
from pmemfs.layout.records import CONTROL, NOTHING_TO_REPLAY, Kind
from pmemfs.pages import ExtentPool

SAMPLES = 8
Rewrite = Callable[[Events], Events]
Patch = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Bug:
    """A bug and the recordings that should show it."""

    name: str
    recordings: tuple[str, ...]
    rewrite: Rewrite | None = None
    patch: Patch = nullcontext

    def caught(self) -> str | None:
        """Return how the bench catches it, or None if it does not."""
        for name in self.recordings:
            with self.patch():
                how = self._crash(name)
            if how is not None:
                return how
        return None

    def _crash(self, name: str) -> str | None:
        if name.startswith(DAMAGED):
            return _problem(check_damaged_journal, name.removeprefix(DAMAGED))
        oracle = Oracle()  # its own: it must not remember what the sound engine recovers to
        try:
            recording = recording_of(name)
            if self.rewrite is not None:
                events = self.rewrite(recording.events)
                assert events != recording.events, f"{self.name} changes nothing in {name}"
                recording = replace(recording, events=events)
                last = recording.allowed.returned[-1]
                recording.allowed.returned[-1] = min(last, len(events))
            crasher = Crasher(recording, oracle, name=name)
            crasher.run(SAMPLES)
            failures = crasher.failures
        except (AssertionError, InvariantError, OSError) as error:
            failures = [f"{name}: {type(error).__name__}: {error}"]
        finally:
            oracle.close()
        if failures:
            return failures[0]
        counts, wanted = recording.lint(), read_table().get(name)
        return f"{name}: lint: {counts}, not {wanted}" if wanted not in (None, counts) else None


def _problem(check: Callable[[str], None], name: str) -> str | None:
    try:
        check(name)
    except AssertionError as error:
        return f"{name}: {error}"
    return None


BUGS: list[Bug] = []


def rewrites(*recordings: str) -> Callable[[Rewrite], Rewrite]:
    """Register a bug that rewrites the events of these recordings."""

    def register(function: Rewrite) -> Rewrite:
        name = function.__name__.replace("_", "-")
        BUGS.append(Bug(name, recordings, rewrite=function))
        return function

    return register


def patches(*recordings: str) -> Callable[[Patch], Patch]:
    """Register a bug that patches the engine; the function returns a context manager."""

    def register(function: Patch) -> Patch:
        name = function.__name__.replace("_", "-")
        BUGS.append(Bug(name, recordings, patch=function))
        return function

    return register


def patched(where: Any, name: str, what: Any) -> AbstractContextManager[Any]:
    """Replace an attribute of a module or class for a while."""
    return mock.patch.object(where, name, what)


# -- commits ------------------------------------------------------------------------------------


@rewrites("create")
def slot_not_flushed(events: Events) -> Events:
    return without(events, "slot", "flush")


@rewrites("create")
def commit_not_ordered(events: Events) -> Events:
    """The fence before the commit word left out."""
    return without(events, "order")


@rewrites("create")
def commit_not_flushed(events: Events) -> Events:
    return without(events, "commit", "flush")


@rewrites("create")
def commit_not_fenced(events: Events) -> Events:
    """Homes are stored before the commit word is durable."""
    return without(events, "settle")


@rewrites("create")
def commit_before_slot(events: Events) -> Events:
    """Two stores swapped: the word first, then the journal."""
    return delayed(events, "slot", "settle")


@rewrites("rename-over-file-other-directory")
def homes_before_commit(events: Events) -> Events:
    return moved(events, "home", "order")


@rewrites("reuse-inode", "truncate-long-and-unlink")
def homes_not_flushed(events: Events) -> Events:
    """Lost when the journal slot is used again."""
    return without(events, "home", "flush")


@patches("reuse-inode", "reuse-metadata-page")
def one_journal_slot() -> AbstractContextManager[Any]:
    """The log is written over before the homes of what it holds are durable."""
    stack = ExitStack()
    slot = journal.journal_slot_offset(0)
    for module in (journal, recovery, fsck_journal):
        stack.enter_context(patched(module, "journal_slot_offset", lambda sequence: slot))
    return stack


@patches("rename-other-directory")
def rename_in_two_transactions() -> AbstractContextManager[Any]:
    def rename(
        self: Namespace, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        inode = self.lookup(parent, name)
        self.link(inode.ino, new_parent, new_name)
        self.unlink(parent, name)

    return patched(Namespace, "rename", rename)


# -- data before the commit ---------------------------------------------------------------------


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


@patches("truncate-up-garbage", "append-behind-garbage")
def growth_not_zeroed() -> AbstractContextManager[Any]:
    return patched(Files, "_expose", lambda self, inode, new_end: None)


@rewrites("overwrite-fsync")
def fsync_without_flush(events: Events) -> Events:
    return without(events, "data", "flush")


@rewrites("overwrite-fsync")
def fsync_without_fence(events: Events) -> Events:
    return without(events, "fence", only=-1)


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


@rewrites("take-returned")
def discard_not_fenced(events: Events) -> Events:
    """The extent is stored to while its discard may still land."""
    number = next(n for n, event in enumerate(events) if event.kind == "discard")
    return events[: number + 1] + events[number + 2 :]


@patches("take-returned", "reuse-extent")
def returned_taken_as_it_is() -> AbstractContextManager[Any]:
    def find(self: ExtentPool) -> int:
        return self._kinds.find(bytes([Kind.FREE if self.counts[Kind.FREE] else Kind.RETURNED]))

    return patched(ExtentPool, "_find_free", find)


@patches("write-whole-new")
def free_data_not_suspected() -> AbstractContextManager[Any]:
    """After a crash, free extents are taken for zeros."""
    return patched(ExtentPool, "suspect_free_data", lambda self: 0)


@patches("unlink-small")
def pages_not_freed() -> AbstractContextManager[Any]:
    return patched(Files, "_free_runs", lambda self, tx, runs: None)


# -- orphans ------------------------------------------------------------------------------------


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


@patches("create-reuse")
def free_chain_not_advanced() -> AbstractContextManager[Any]:
    put = InodeTable._put_chunk

    def put_chunk(self: InodeTable, tx: Transaction, number: int, chunk: Any) -> None:
        put(self, tx, number, chunk)
        head = self._pool.geometry.head_offset(chunk.extent)
        tx.records.pop(head)

    return patched(InodeTable, "_put_chunk", put_chunk)


# -- mount, recovery, unmount -------------------------------------------------------------------

_COMMITTED = "mount:reuse-inode@8/4.none.0"
"""The mount of an image with a committed transaction none of whose homes are there."""


@patches("create")
def replay_skipped() -> AbstractContextManager[Any]:
    return patched(volume, "recover", lambda device: None)


@patches(DAMAGED + "rename-absent")
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


# -- what only the lint sees --------------------------------------------------------------------


@rewrites("create")
def flushed_twice(events: Events) -> Events:
    slot = next(e for part, e in anatomy(events) if part == "slot" and e.kind == "flush")
    number = events.index(slot)
    return [*events[:number], slot, *events[number:]]


@rewrites("create")
def fenced_twice(events: Events) -> Events:
    number = next(n for n, event in enumerate(events) if event.kind == "fence")
    return [*events[:number], Event("fence"), *events[number:]]


@rewrites("create")
def last_homes_not_flushed(events: Events) -> Events:
    """The journal still has them; the next commit but one would lose them."""
    return without(events, "home", "flush", only=-1)


# -- the score ----------------------------------------------------------------------------------


@click.command(epilog="\b\nExample:\n  make crash-bugs")
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Try all seeded bugs, or those NAMES, and print how each is caught."""
    table = Table("bug", "caught by")
    bugs = [bug for bug in BUGS if not names or bug.name in names]
    found = {bug.name: bug.caught() for bug in bugs}
    for name, how in found.items():
        table.add_row(name, how[:160] if how else "[red]not caught")
    score = sum(how is not None for how in found.values())
    console = Console()
    console.print(table)
    console.print(f"{score} of {len(bugs)} seeded bugs caught")
    raise SystemExit(score < len(bugs))


if __name__ == "__main__":
    main()
