"""All seeded bugs, and the score: ``make crash-bugs``. See `crash_bug` for how to add one."""

from __future__ import annotations

import bugs_commits
import bugs_data
import bugs_recovery
import click
from crash_bug import BUGS, SAMPLES, Bug
from rich.console import Console
from rich.table import Table

__all__ = ["BUGS", "SAMPLES", "Bug", "bugs_commits", "bugs_data", "bugs_recovery"]


@click.command(epilog="\b\nExample:\n  make crash-bugs")
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Try all seeded bugs, or those NAMES, and print how each is caught."""
    table = Table("bug", "caught by")
    bugs = [bug for bug in BUGS if not names or bug.name in names]
    found = {bug.name: bug.caught() for bug in bugs}
    for name, how in found.items():
        table.add_row(name, how[:160] if how else "[red]not caught")
    score = sum(how is not None for how in found.values())
    console = Console()
    console.print(table)
    console.print(f"{score} of {len(bugs)} seeded bugs caught")
    raise SystemExit(score < len(bugs))


if __name__ == "__main__":
    main()
