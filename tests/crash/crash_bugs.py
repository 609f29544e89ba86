"""All seeded bugs, and the score: ``make crash-bugs``. See `crash_bug` for how to add one."""

from __future__ import annotations

from collections import Counter

import bugs_commits
import bugs_data
import bugs_power
import bugs_recovery
import click
from crash_bug import BUGS, SAMPLES, Bug, By, Verdict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = [
    "BUGS",
    "SAMPLES",
    "Bug",
    "By",
    "Verdict",
    "bugs_commits",
    "bugs_data",
    "bugs_power",
    "bugs_recovery",
]


@click.command(
    epilog="\b\nExamples:\n  make crash-bugs\n  make crash-bugs ARGS=fsync-without-fence"
)
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Try all seeded bugs, or those NAMES, and print how each is caught.

    Exit status 1: one of them is not caught by what has to show it.
    """
    known = {bug.name: bug for bug in BUGS}
    if unknown := set(names) - known.keys():
        raise click.UsageError(f"no such bug: {', '.join(sorted(unknown))}")
    bugs = [known[name] for name in names or known]
    found = {bug.name: bug.verdict() for bug in bugs}
    caught = Counter(found[bug.name].by for bug in bugs if found[bug.name].by is bug.by)
    table = Table("bug", "caught by", "how")
    for bug in bugs:
        by, how = found[bug.name]
        shown = by if by is bug.by else f"[red]{by or 'nothing'}, not {bug.by}"
        table.add_row(bug.name, shown, escape(how[:160]))
    console = Console()
    console.print(table)
    ways = ", ".join(f"{n} by {by}" for by, n in caught.most_common())
    console.print(f"{caught.total()} of {len(bugs)} seeded bugs caught ({ways})", soft_wrap=True)
    raise SystemExit(caught.total() < len(bugs))


if __name__ == "__main__":
    main()
