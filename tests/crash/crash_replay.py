"""Bring one crash state back and let its exception through: ``make replay ID=CASE@SAMPLES/STATE``.

Shows what the crash lost and kept before it asks the oracle.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import click
from crash_again import require_mounts_change_nothing, require_recovery_twice_is_once
from crash_case import Recording
from crash_damage import DAMAGED, check_damaged_bit
from crash_names import BY_NAME, recording_of, state_of
from crash_oracle import Crasher, Oracle
from replaying import replay, show_events
from rich.console import Console

from pmemfs.device import CrashState
from pmemfs.device.sparse import PAGE_SHIFT

_SHOWN = 12


@click.command(
    epilog="\b\nExamples:\n  make replay ID=promote@8/2.alone.5\n"
    "  make replay ID=pair:overwrite-foo+fsync-foo@8/2.sample.3\n"
    "  make replay ID=life:cache-close+disk-close@2/4.none.0\n"
    "  make replay ID=damaged-journal:rename-absent/2574"
)
@click.argument("state_id", metavar="ID")
def main(state_id: str) -> None:
    """Reproduce the crash state ID, as a failure printed it, and show its exception.

    Without what is behind the slash, all states of that recording.
    """
    replay(state_id, "cases", BY_NAME, replay_of)


def replay_of(state_id: str, console: Console) -> Callable[[], None]:
    """Return what asks the oracle again; raises ``KeyError`` or ``ValueError``: no such state."""
    if state_id.startswith(DAMAGED):
        name, _, bit = state_id.removeprefix(DAMAGED).rpartition("/")
        return partial(check_damaged_bit, recording_of(name), int(bit))
    found = re.search(r"@(\d+)/[^/]*$", state_id)
    if found is None:
        raise ValueError("no id of a state")
    samples = int(found[1])
    if state_id.endswith("/"):
        return partial(replay_all, recording_of(state_id.rpartition("@")[0]), samples)
    recording, state = state_of(state_id)
    show(console, recording, state)
    return partial(replay_one, recording, state, samples)


def replay_all(recording: Recording, samples: int) -> None:
    """Check all states; raise what is wrong with the first."""
    crasher = Crasher(recording, Oracle())
    crasher.run(samples)
    for error in crasher.errors:
        raise error


def replay_one(recording: Recording, state: CrashState, samples: int) -> None:
    """Check a state, and what else is asked of some."""
    crasher = Crasher(recording, Oracle())
    for earlier in recording.states(samples):  # what states before it kept, this one may not lose
        if earlier.id == state.id:
            break
        if earlier.id.endswith((".none.0", ".each.0")):
            crasher.check(earlier)
    crasher.check(state)
    if not crasher.refused and recording.recover is None:
        require_recovery_twice_is_once(state)
        require_mounts_change_nothing(state, recording.case)


def show(console: Console, recording: Recording, state: CrashState) -> None:
    """Print where in its recording a state stands, and what differs from the durable image."""
    events = recording.events
    steps = recording.allowed.returned
    console.print(
        f"crash after event {state.after} of {len(events)}; "
        f"steps returned by then: {recording.allowed.floor(state.after)} of {len(steps) - 1}"
    )
    show_events(console, events, state.after)
    pages = [f"{n << PAGE_SHIFT:#x}" for n in sorted(state.overlay)]
    console.print(f"pages that differ from what was durable before the epoch: {len(pages)}")
    console.print("  " + " ".join(pages[:_SHOWN]) + (" ..." if len(pages) > _SHOWN else ""))


if __name__ == "__main__":
    main()
