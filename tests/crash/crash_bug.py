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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from crash_anatomy import Events
from crash_damage import DAMAGED, check_damaged_journal
from crash_lint import read_table
from crash_names import recording_of
from crash_oracle import Crasher, Oracle

from pmemfs.errors import InvariantError

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
