"""One bounded step of idle work at a time, on a `Volume`.

Each step is at most one transaction and a few host calls, so a request waits for no more than
that. A front end calls `Reclaimer.step` between requests, and when none come.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pmemfs.fs import Volume
from pmemfs.layout.records import Kind
from pmemfs.reclaim.plan import Action, Situation, plan

DISCARD_BATCH = 16
_AFTER_DAMAGE_S = 10.0


class Reclaimer:
    """The idle work of one volume; ``idle_s`` is the idle time of the design."""

    def __init__(
        self, volume: Volume, idle_s: float, now_s: Callable[[], float] = time.time
    ) -> None:
        self._volume = volume
        self._idle_s = idle_s
        self._now_s = now_s
        self._sequence = volume.journal.sequence
        self._quiet_since_s = now_s()

    def situation(self) -> Situation:
        """Look at the volume."""
        volume = self._volume
        now = self._now_s()
        if volume.journal.sequence != self._sequence:
            self._sequence = volume.journal.sequence
            self._quiet_since_s = now
        assert volume.tables is not None
        coldest = volume.tables.coldest()
        return Situation(
            now_s=now,
            quiet_since_s=self._quiet_since_s,
            coldest_access_s=coldest[1] if coldest else None,
            has_orphans=volume.orphans.workable() is not None,
            has_idle_extents=volume.has_idle_extents,
            returned_extents=volume.pool.counts[Kind.RETURNED],
        )

    def step(self) -> float:
        """Do what is due, one bounded step; return in how many seconds to call again.

        Nothing is due after damage was found; a step that finds some lets the volume note it.
        """
        if self._volume.is_read_only:
            return _AFTER_DAMAGE_S
        try:
            todo = plan(self.situation(), self._idle_s)
            if isinstance(todo, float):
                return todo
            self._do(todo)
        except Exception as error:
            if not self._volume.note_error(error):
                raise
            return _AFTER_DAMAGE_S
        self._sequence = self._volume.journal.sequence  # own commits are no activity
        return 0.0

    def _do(self, action: Action) -> None:
        volume = self._volume
        assert volume.tables is not None
        if action is Action.ORPHAN:
            inode = volume.orphans.workable()
            if inode is not None:
                volume.orphans.work(inode)
        elif action is Action.UNSPLIT:
            coldest = volume.tables.coldest()
            if coldest is not None:
                volume.tables.unsplit(coldest[0])
        elif action is Action.RELEASE:
            volume.release_idle()
        else:
            volume.pool.discard_returned(DISCARD_BATCH)
