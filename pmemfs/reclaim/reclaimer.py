"""One bounded step of idle work at a time, on a `Volume`.

Each step is at most one transaction and a few host calls, so a request waits for no more than
that. A front end calls `Reclaimer.step` between requests, and when none come. Steps that a plan
has listed are done one by one, unless a request has changed something meanwhile: then there is a
new plan.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pmemfs.fs import Volume
from pmemfs.fs.moves import STEP_PAGES
from pmemfs.layout.geometry import PAGES_PER_EXTENT
from pmemfs.layout.records import Kind
from pmemfs.reclaim.plan import (
    MOVES_PER_WRITE,
    OWNABLE_PAGES,
    Action,
    Columns,
    Policy,
    Situation,
    Step,
    plan,
)

DISCARD_BATCH = 16
_AFTER_DAMAGE_S = 10.0


class Reclaimer:
    """The idle work of one volume that is open for writing."""

    def __init__(
        self, volume: Volume, policy: Policy, now_s: Callable[[], float] = time.time
    ) -> None:
        assert volume.tables is not None
        assert volume.moves is not None
        self._volume = volume
        self._tables = volume.tables
        self._moves = volume.moves
        self._policy = policy
        self._now_s = now_s
        self._sequence = volume.journal.sequence
        self._quiet_since_s = now_s()
        self._steps: deque[Step] = deque()
        self._is_compact = False
        self._compacting = False
        self._settle_at_s = 0.0  # until then the tail noted first is in use
        pool = volume.pool
        small = pool.counts[Kind.SMALL] * OWNABLE_PAGES - pool.free_small_pages
        # what lay there before may be moved once
        self._allowance_pages = small + pool.counts[Kind.WHOLE] * PAGES_PER_EXTENT
        self._background_pages = 0  # moved so far without being asked to

    # -- on demand ---------------------------------------------------------------------------

    def compact(self) -> None:
        """Ask for compaction: until nothing is left of it, steps are due at once."""
        self._compacting = True
        self._is_compact = False
        self._steps.clear()

    @property
    def is_compacting(self) -> bool:
        """Whether compaction has been asked for and is not finished."""
        return self._compacting

    def progress(self) -> dict[str, Any]:
        """Return what compaction is about, in extents and pages, for people and programs."""
        pool = self._volume.pool
        small = pool.counts[Kind.SMALL]
        return {
            "running": self._compacting,
            "surplus_extents": pool.free_small_pages // OWNABLE_PAGES,
            "free_extents": pool.free_extents,
            "small_extents": small,
            "free_pages": pool.free_pages,
            "free_small_pages": pool.free_small_pages,
            "pages_moved": self._moves.pages_moved,
        }

    # -- steps -------------------------------------------------------------------------------

    def situation(self) -> Situation:
        """Look at the volume."""
        volume, now = self._volume, self._now_s()
        if volume.journal.sequence != self._sequence:
            self._sequence = volume.journal.sequence
            self._quiet_since_s = now
            self._is_compact = False
            self._steps.clear()
        coldest = self._tables.coldest()
        return Situation(
            now_s=now,
            quiet_since_s=self._quiet_since_s,
            coldest_access_s=coldest[1] if coldest else None,
            split_extents=self._tables.split_extents,
            has_orphans=volume.orphans.workable() is not None,
            settle_at_s=self._next_settling_s(),
            has_idle_extents=volume.has_idle_extents,
            returned_extents=volume.pool.counts[Kind.RETURNED],
            device_pages=volume.geometry.n_pages,
            free_pages=volume.pool.free_pages,
            free_small_pages=volume.pool.free_small_pages,
            budget_pages=self.budget_pages,
            compacting=self._compacting,
            is_compact=self._is_compact,
        )

    def _next_settling_s(self) -> float | None:
        if self._moves.has_unscanned or self._can_promote():
            return 0.0
        return self._settle_at_s if self._volume.candidates.tails else None

    def _can_promote(self) -> bool:
        return (
            bool(self._volume.candidates.dense)
            and self._volume.pool.free_extents > 0
            and self._may_move(PAGES_PER_EXTENT)
        )

    def _may_move(self, pages: int) -> bool:
        return self._compacting or self.budget_pages >= pages

    @property
    def budget_pages(self) -> float:
        """How many pages may be moved unasked: half of what was written, less what was moved."""
        written = self._volume.pages_written
        return self._allowance_pages + MOVES_PER_WRITE * written - self._background_pages

    def columns(self) -> Columns:
        """Return the head columns, up to the last extent that is not free."""
        pool, tables = self._volume.pool, self._tables
        stop = pool.frontier
        return Columns(
            flags=tables.flag_column[:stop],
            access_s=tables.access_column[:stop],
            small_open=pool.open_column(Kind.SMALL)[:stop],
        )

    def step(self) -> float:
        """Do what is due, one bounded step; return in how many seconds to call again.

        Nothing is due after damage was found; a step that finds some lets the volume note it.
        """
        if self._volume.is_read_only:
            return self._give_up()
        try:
            return self._step()
        except Exception as error:
            if not self._volume.note_error(error):
                raise
            return self._give_up()

    def _step(self) -> float:
        situation = self.situation()
        if not self._steps:
            todo = plan(situation, self.columns(), self._policy)
            if not isinstance(todo, list):
                return self._rest(todo, situation)
            self._steps.extend(todo)
        self._do(self._steps.popleft())
        self._sequence = self._volume.journal.sequence  # own commits are no activity
        return 0.0

    def _give_up(self) -> float:
        """Damage was found: forget what was planned or asked for; return when to call again."""
        self._compacting = False
        self._steps.clear()
        return _AFTER_DAMAGE_S

    def _rest(self, wait_s: float, situation: Situation) -> float:
        """Nothing is due, unless an extent that an arena has kept for itself is thin."""
        arenas = [self._moves.holes]
        if self._compacting or situation.quiet_s >= self._policy.idle_s:
            arenas += self._volume.data_arenas
        keeping = [arena for arena in arenas if arena.owns_extent]
        for arena in keeping:
            arena.retire()
        if keeping:
            return 0.0
        self._compacting = False
        return wait_s

    def _do(self, step: Step) -> None:
        volume = self._volume
        if step.action is Action.ORPHAN:
            inode = volume.orphans.workable()
            if inode is not None:
                volume.orphans.work(inode)
        elif step.action is Action.SPARE:
            if self._tables.is_split(step.extent):
                self._tables.spare(step.extent)
        elif step.action is Action.UNSPLIT:
            if self._tables.is_split(step.extent):
                self._tables.unsplit(step.extent)
        elif step.action is Action.RELEASE:
            volume.release_idle()
        elif step.action is Action.DISCARD:
            volume.pool.discard_returned(DISCARD_BATCH)
        else:
            self._move(step)

    # -- moves -------------------------------------------------------------------------------

    def _move(self, step: Step) -> None:
        before = self._moves.pages_moved
        if step.action is Action.SETTLE:
            self._settle()
        else:
            self._compact_extent(step.extent)
        if not self._compacting:
            self._background_pages += self._moves.pages_moved - before

    def _compact_extent(self, extent: int) -> None:
        """Move some pages out of an extent; come back to it until it is empty."""
        if not self._volume.pool.open_column(Kind.SMALL)[extent]:
            return  # empty by now, full, or taken by an arena
        if not self._may_move(STEP_PAGES):
            self._steps.clear()
        elif self._moves.move_out(extent):
            self._steps.appendleft(Step(Action.COMPACT, extent))
        else:
            self._steps.clear()
            self._is_compact = True

    def _settle(self) -> None:
        """Look at one file or piece that may lie in the wrong kind of extent."""
        candidates = self._volume.candidates
        if self._moves.has_unscanned:
            self._moves.scan()
        elif self._can_promote():
            ino, piece = next(iter(candidates.dense))
            del candidates.dense[ino, piece]
            self._moves.promote(ino, piece)
        elif candidates.tails:
            self._settle_tail(next(iter(candidates.tails)))

    def _settle_tail(self, ino: int) -> None:
        """Demote a thin tail that nobody is using; one that is in use is looked at later."""
        tail = self._moves.thin_tail(ino)
        if tail is not None and not self._compacting:
            extent, pages = tail
            idle_at_s = int(self._tables.access_column[extent]) + self._policy.idle_s
            if not self._may_move(pages):
                idle_at_s = self._now_s() + self._policy.idle_s
            if self._now_s() <= idle_at_s:
                self._settle_at_s = idle_at_s
                return
        del self._volume.candidates.tails[ino]
        self._moves.demote(ino)
