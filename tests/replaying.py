"""Bring crash states back by the ids that failures printed: what the two benches share of it.

Exit status 0: the state passes; 1: it fails, as shown; 2: there is no such state.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.traceback import Traceback

from pmemfs.device import Event

_SHOWN = 12

ReplayOf = Callable[[str, Console], Callable[[], None]]
"""Shows the state of an id and returns what asks again; ``KeyError``, ``ValueError``: no state."""


def limits(samples: int) -> dict[str, int]:
    """Return what the number of samples in an id says of the states that are taken of an epoch."""
    return {
        "exhaustive_limit": 16 * samples,
        "samples": 2 * samples,
        "lines_limit": 3 * samples,
    }


def replay(state_id: str, what: str, names: Iterable[str], replay_of: ReplayOf) -> None:
    """Ask again of one state, or of all where an id ends with a slash, and exit with the status."""
    console = Console(soft_wrap=True, highlight=False)
    try:
        ask = replay_of(state_id, console)
    except (KeyError, ValueError):
        print(f"there is no state {state_id}; {what} are, for instance, {', '.join(names)[:120]}")
        sys.exit(2)
    try:
        ask()
    except Exception as error:
        console.print(Traceback.from_exception(type(error), error, error.__traceback__))
        for note in getattr(error, "__notes__", ()):
            console.print(note)
        sys.exit(1)
    console.print(f"{state_id}: {'all states pass' if state_id[-1] == '/' else 'the state passes'}")


def show_events(console: Console, events: Sequence[Event], after: int) -> None:
    """Print the last events before a crash."""
    for event in events[max(0, after - _SHOWN) : after]:
        console.print(f"  {event.kind:8}{event.offset:#12x} {event.length:6}")
