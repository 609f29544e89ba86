"""Bring crash states of a repair back: ``make replay ID=fsck:DAMAGE@SAMPLES/STATE``.

Exit status 0: the state passes; 1: it fails, as shown; 2: there is no such state.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import click
from fsck_crash import PREFIX, MendedDamage, record_damage
from rich.console import Console
from rich.traceback import Traceback
from test_fsck_crash import CASES
from test_fsck_damage import DAMAGES

from pmemfs.device import CrashState

_SHOWN = 12
BY_NAME = {damage.__name__: (damage, cost) for damage, cost in CASES}
BY_NAME |= {damage.__name__: (damage, set[bytes]()) for _, damage in DAMAGES}


@click.command(epilog="\b\nExamples:\n  make replay ID=fsck:names_gone@1/4.without.0")
@click.argument("state_id", metavar="ID")
def main(state_id: str) -> None:
    """Crash a repair as ID says, as a failure printed it, and mend it again.

    Without what is behind the slash, in all states.
    """
    console = Console(soft_wrap=True, highlight=False)
    try:
        mended, samples, states = states_of(state_id)
    except (KeyError, ValueError):
        print(
            f"there is no state {state_id}; damages are, for instance, {', '.join(BY_NAME)[:120]}"
        )
        sys.exit(2)
    try:
        for state in states:
            if len(states) == 1:
                show(console, mended, state)
            mended.validate(state, samples)
    except Exception as error:
        console.print(Traceback.from_exception(type(error), error, error.__traceback__))
        console.print(*error.__notes__, sep="\n")
        sys.exit(1)
    console.print(f"{state_id}: {'the state passes' if len(states) == 1 else 'all states pass'}")


def states_of(state_id: str) -> tuple[MendedDamage, int, list[CrashState]]:
    """Return the repair, the samples and the states of an id; raises KeyError or ValueError."""
    found = re.fullmatch(PREFIX + r"(\w+)@(\d+)/([^/]*)", state_id)
    if found is None:
        raise ValueError("no id of a state")
    damage, cost = BY_NAME[found[1]]
    with tempfile.TemporaryDirectory(prefix="pmemfs-replay-") as folder:
        mended = record_damage(Path(folder) / "disk.img", damage, cost)
    states = mended.states(int(found[2]))
    return mended, int(found[2]), [states.replay(found[3])] if found[3] else list(states)


def show(console: Console, mended: MendedDamage, state: CrashState) -> None:
    """Print where in the stores of its repair a state stands."""
    console.print(f"crash after event {state.after} of {len(mended.events)}")
    for event in mended.events[max(0, state.after - _SHOWN) : state.after]:
        console.print(f"  {event.kind:8}{event.offset:#12x} {event.length:6}")


if __name__ == "__main__":
    main()
