"""Bring one crash state back and let its exception through: ``make replay ID=CASE@SAMPLES/STATE``.

Shows what the crash lost and kept before it asks the oracle. Exit status 0: the state passes;
1: it fails, as shown; 2: there is no such state.
"""

from __future__ import annotations

import re
import sys

import click
from crash_case import Recording
from crash_names import BY_NAME, state_of
from crash_oracle import Crasher, Oracle
from rich.console import Console
from rich.traceback import Traceback

from pmemfs.device import CrashState
from pmemfs.device.sparse import PAGE_SHIFT

_SHOWN = 12


@click.command(
    epilog="\b\nExamples:\n  make replay ID=promote@8/2.alone.5\n"
    "  make replay ID=pair:overwrite-foo+fsync-foo@8/2.sample.3"
)
@click.argument("state_id", metavar="ID")
def main(state_id: str) -> None:
    """Reproduce the crash state ID, as a failure printed it, and show its exception."""
    console = Console(soft_wrap=True, highlight=False)
    try:
        recording, state = state_of(state_id)
    except (KeyError, ValueError):
        print(f"there is no state {state_id}; cases are, for instance, {', '.join(BY_NAME)[:120]}")
        sys.exit(2)
    show(console, recording, state)
    crasher = Crasher(recording, Oracle())
    try:
        # what states before it kept, this one may not lose
        for earlier in recording.states(int(re.split("[@/]", state_id)[-2])):
            if earlier.id == state.id:
                break
            if earlier.id.endswith((".none.0", ".each.0")):
                crasher.check(earlier)
        crasher.check(state)
    except Exception as error:
        console.print(Traceback.from_exception(type(error), error, error.__traceback__))
        sys.exit(1)
    console.print(f"{state_id}: the state passes")


def show(console: Console, recording: Recording, state: CrashState) -> None:
    """Print where in its recording a state stands, and what differs from the durable image."""
    events = recording.events
    steps = recording.allowed.returned
    console.print(
        f"crash after event {state.after} of {len(events)}; "
        f"steps returned by then: {recording.allowed.floor(state.after)} of {len(steps) - 1}"
    )
    for event in events[max(0, state.after - _SHOWN) : state.after]:
        console.print(f"  {event.kind:8}{event.offset:#12x} {event.length:6}")
    pages = [f"{n << PAGE_SHIFT:#x}" for n in sorted(state.overlay)]
    console.print(f"pages that differ from what was durable before the epoch: {len(pages)}")
    console.print("  " + " ".join(pages[:_SHOWN]) + (" ..." if len(pages) > _SHOWN else ""))


if __name__ == "__main__":
    main()
