"""Seeded bugs in the order of commits, and what only the lint sees."""

from __future__ import annotations

import stat
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from crash_anatomy import Events, anatomy, delayed, moved, without
from crash_bug import By, patched, patches, rewrites

from pmemfs.device import Event
from pmemfs.fs import Volume, acl
from pmemfs.fs.inodes import Inode
from pmemfs.fsck import journal as fsck_journal
from pmemfs.journal import Transaction, journal, recovery


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
        self: Volume, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        self.link(self.lookup(parent, name).ino, new_parent, new_name)
        self.unlink(parent, name)

    return patched(Volume, "rename", rename)


@patches("acl-chmod")
def mode_before_its_list() -> AbstractContextManager[Any]:
    """chmod(2) changes the mode, and in another transaction the access control list."""
    change = Volume.setattr

    def mode_alone(self: Volume, tx: Transaction, inode: Inode, mode: int) -> None:
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)

    def setattr_(self: Volume, ino: int, *, mode: int) -> None:
        entries = acl.parse(self.getxattr(ino, acl.ACCESS))
        with patched(Volume, "_change_mode", mode_alone):
            change(self, ino, mode=mode)
        self.setxattr(ino, acl.ACCESS, acl.pack(acl.with_mode(entries, mode)))

    return patched(Volume, "setattr", setattr_)


# -- what only the lint sees --------------------------------------------------------------------


@rewrites("create", by=By.LINT)
def flushed_twice(events: Events) -> Events:
    slot = next(e for part, e in anatomy(events) if part == "slot" and e.kind == "flush")
    number = events.index(slot)
    return [*events[:number], slot, *events[number:]]


@rewrites("create", by=By.LINT)
def fenced_twice(events: Events) -> Events:
    number = next(n for n, event in enumerate(events) if event.kind == "fence")
    return [*events[:number], Event("fence"), *events[number:]]


@rewrites("create", by=By.LINT)
def last_homes_not_flushed(events: Events) -> Events:
    """The journal still has them; the next commit but one would lose them."""
    return without(events, "home", "flush", only=-1)
