"""Does the bench see? Bugs made on purpose, each of which it has to catch.

A `Bug` is never in the program's own path. Either it *rewrites* a recording, as if the engine had
left out, added or swapped what passes through the seam; or it *patches* the engine while a
recording is made and its states are checked. To add one, write a function with one of the two
decorators and name the cases, or other recordings, each of which has to show it:

    @rewrites("create", "write-new")
    def slot_not_flushed(events):
        return without(events, "slot", "flush")

    @patches("create")
    def recovery_skipped():
        return patched(volume, "recover", lambda device: None)

Caught means: without a crash all goes as it should, and a crash leaves a state that the oracle
refuses. What else may show a bug is said with it, ``by=By.LINT`` for instance. A rewrite that
changes nothing, a patch that breaks while the recording is made, and an error that no oracle raises
(or that the patch itself raises) are no catch: such a bug fails the bench.

A bug that no crash can show, because what it leaves out is done again before it matters, is not
counted, unless the lint sees it.
"""

from __future__ import annotations

import enum
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unittest import mock

from crash_anatomy import Events
from crash_case import Recording
from crash_damage import DAMAGED, check_damaged_journal
from crash_lint import read_table
from crash_names import recording_of
from crash_oracle import Crasher, Oracle

from pmemfs.errors import InvariantError, PmemfsError

SAMPLES = 8
Rewrite = Callable[[Events], Events]
Patch = Callable[[], AbstractContextManager[Any]]
_REFUSALS = (AssertionError, InvariantError, PmemfsError)
"""What the oracle says of a state, and the engine of an image that it does not go on with."""


class By(enum.StrEnum):
    """What shows a bug."""

    STATE = "a crash state"
    RULE = "a rule of the device"
    JOURNAL = "a damaged journal"
    LINT = "the lint"


class Verdict(NamedTuple):
    """How a bug was caught; ``by`` is None if it was not, and ``how`` says why."""

    by: By | None
    how: str


@dataclass(frozen=True)
class Bug:
    """A bug, the recordings that have to show it, and by what."""

    name: str
    recordings: tuple[str, ...]
    rewrite: Rewrite | None = None
    patch: Patch = nullcontext
    by: By = By.STATE

    def verdict(self) -> Verdict:
        """Return how the first recording shows it, or that one of them does not."""
        verdicts = [self._verdict_on(name) for name in self.recordings]
        return next((verdict for verdict in verdicts if verdict.by is not self.by), verdicts[0])

    def _verdict_on(self, name: str) -> Verdict:
        try:
            with self.patch():
                recording = self._recording(name.removeprefix(DAMAGED))
                return self._try(name, recording)
        except Exception as error:  # before anything was crashed
            return self._broken(name, error)

    def _broken(self, name: str, error: Exception) -> Verdict:
        return Verdict(None, f"{name}: the bug is broken: {type(error).__name__}: {error}")

    def _recording(self, name: str) -> Recording:
        recording = recording_of(name)
        if self.rewrite is None:
            return recording
        events = self.rewrite(recording.events)
        if events == recording.events:
            raise ValueError("it changes nothing")
        last = recording.allowed.returned[-1]
        recording.allowed.returned[-1] = min(last, len(events))
        return replace(recording, events=events)

    def _try(self, name: str, recording: Recording) -> Verdict:
        if self.by is By.LINT:
            counts, wanted = recording.lint(), read_table()[name]
            return Verdict(By.LINT if counts != wanted else None, f"{name}: {counts}, not {wanted}")
        if self.by is By.JOURNAL:
            return self._try_journal(name, recording)
        oracle = Oracle()  # its own: it must not remember what the sound engine recovers to
        crasher = Crasher(recording, oracle, name=name)
        try:
            crasher.run(SAMPLES)
        finally:
            oracle.close()
        if not crasher.failures:
            return Verdict(None, f"{name}: {len(crasher.found)} states pass")
        if not self._is_refusal(crasher.errors[0]):
            return self._broken(crasher.failures[0], crasher.errors[0])
        return Verdict(By.RULE if crasher.breaks_rule else By.STATE, crasher.failures[0])

    def _try_journal(self, name: str, recording: Recording) -> Verdict:
        try:
            check_damaged_journal(recording)
        except AssertionError as error:
            return Verdict(By.JOURNAL, str(error))
        return Verdict(None, f"{name}: every damage is seen")

    def _is_refusal(self, error: Exception) -> bool:
        """Whether an error says that a state is wrong, and not that the patch is."""
        if not isinstance(error, _REFUSALS):
            return False
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        code = getattr(self.patch, "__code__", None)
        return code is None or frames[-1].f_code.co_filename != code.co_filename


BUGS: list[Bug] = []


def rewrites(*recordings: str, by: By = By.STATE) -> Callable[[Rewrite], Rewrite]:
    """Register a bug that rewrites the events of these recordings."""

    def register(function: Rewrite) -> Rewrite:
        BUGS.append(Bug(_name(function), recordings, rewrite=function, by=by))
        return function

    return register


def patches(*recordings: str, by: By = By.STATE) -> Callable[[Patch], Patch]:
    """Register a bug that patches the engine; the function returns a context manager."""

    def register(function: Patch) -> Patch:
        BUGS.append(Bug(_name(function), recordings, patch=function, by=by))
        return function

    return register


def _name(function: Callable[..., Any]) -> str:
    return function.__name__.replace("_", "-")


def patched(where: Any, name: str, what: Any) -> AbstractContextManager[Any]:
    """Replace an attribute of a module or class for a while."""
    return mock.patch.object(where, name, what)
