"""Seeded bugs in what ``persist=disk`` and unmounting make durable on the host."""

from __future__ import annotations

from crash_anatomy import Events
from crash_bug import rewrites

from pmemfs.device import Event
from pmemfs.journal.journal import COMMITTED_OFFSET
from pmemfs.layout.geometry import CONTROL_OFFSET
from pmemfs.layout.records import CONTROL

_GENERATION = CONTROL_OFFSET + CONTROL.offset_of["generation"]


def _is_commit(event: Event) -> bool:
    return event.kind == "store" and event.offset == COMMITTED_OFFSET


@rewrites("disk:create-first", "disk:write-new", "disk:promote")
def no_sync_before_commits(events: Events) -> Events:
    following = [*events[1:], Event("fence")]
    return [e for e, f in zip(events, following) if not (e.kind == "sync" and _is_commit(f))]


@rewrites("disk:create-first", "disk:unlink-long", "disk:rename-over-file-other-directory")
def no_sync_behind_commits(events: Events) -> Events:
    kept: Events = []
    behind = False
    for event in events:
        behind = behind or _is_commit(event)
        if event.kind == "sync" and behind:
            behind = False
        else:
            kept.append(event)
    return kept


@rewrites("disk:overwrite-twice-fsync")
def fsync_without_sync(events: Events) -> Events:
    last = max(number for number, event in enumerate(events) if event.kind == "sync")
    return events[:last] + events[last + 1 :]


@rewrites("life:cache-close", "life:cache-abandon+disk-close")
def said_before_it_is_so(events: Events) -> Events:
    """Once the first mount has begun, no sync stands between what the image says and what it is."""
    begun = next(n for n, event in enumerate(events) if event.offset == _GENERATION)
    begun += next(n for n, event in enumerate(events[begun:]) if event.kind == "sync") + 1
    return events[:begun] + [event for event in events[begun:] if event.kind != "sync"]
