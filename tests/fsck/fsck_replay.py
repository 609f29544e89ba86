"""Bring crash states of a repair back: ``make replay ID=fsck:DAMAGE@SAMPLES/STATE``."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from fsck_crash import PREFIX, MendedDamage, record_damage
from replaying import replay, show_events
from rich.console import Console
from test_fsck_crash import CASES
from test_fsck_damage import DAMAGES

from pmemfs.device import CrashState

BY_NAME = {damage.__name__: (damage, cost) for damage, cost in CASES}
BY_NAME |= {damage.__name__: (damage, set[bytes]()) for _, damage in DAMAGES}


@click.command(epilog="\b\nExamples:\n  make replay ID=fsck:names_gone@1/4.without.0")
@click.argument("state_id", metavar="ID")
def main(state_id: str) -> None:
    """Crash a repair as ID says, as a failure printed it, and mend it again.

    Without what is behind the slash, in all states.
    """
    replay(state_id, "damages", BY_NAME, replay_of)


def replay_of(state_id: str, console: Console) -> Callable[[], None]:
    """Return what mends again; raises ``KeyError`` or ``ValueError``: no such state."""
    mended, samples, states = states_of(state_id)
    if not state_id.endswith("/"):
        show(console, mended, states[0])

    def mend_all() -> None:
        for state in states:
            mended.validate(state, samples)

    return mend_all


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
    show_events(console, mended.events, state.after)


if __name__ == "__main__":
    main()
