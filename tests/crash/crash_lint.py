"""The table of what each case flushes and fences too little or too much: ``lint.tsv``.

``python tests/crash/crash_lint.py --update`` writes it anew; `test_crash_operations` holds every
case to its row, `test_crash_coverage` the rows to the cases, and what is needless to ``NEEDLESS``.
"""

from __future__ import annotations

import functools
from pathlib import Path

import click
from crash_case import record
from crash_cases import CASES

from pmemfs.device.lint import Lint

TABLE = Path(__file__).with_name("lint.tsv")
NEEDLESS = {
    "flushes zeros that a file gets longer over: whether they were ever flushed nobody knows": [
        "preallocated-dirty-tail",
        "reuse-dirty-pages",
    ],
    "an fsync fences, though its pages were made durable with a neighbour or a stolen table": [
        "overwrite-two-files-fsync",
        "split-steals-table",
    ],
    "unmounting publishes twice in a row, and each begins with a fence": [
        "unmount",
        "unmount-dirty",
        "unmount-held",
        "unmount-empty",
        "unmount-orphans",
        "unmount-returned",
        "unmount-xattrs",
    ],
}
"""Why cases flush or fence for nothing. A fence with nothing flushed before is no ``fdatasync``."""


@functools.cache
def read_table() -> dict[str, Lint]:
    """Return the counts by case."""
    rows = [line.split("\t") for line in TABLE.read_text().splitlines()[1:]]
    return {name: Lint(*map(int, counts)) for name, *counts in rows if name != "total"}


@click.command(epilog="\b\nExample:\n  python tests/crash/crash_lint.py --update")
@click.option("--update", is_flag=True, help="Write the table.")
def main(update: bool) -> None:
    """Print the lint of all cases; with --update, write it to lint.tsv."""
    counts = {case.name: record(case).lint() for case in CASES}
    total = Lint(*map(sum, zip(*counts.values())))
    rows = [("case", *Lint._fields), *((name, *row) for name, row in counts.items())]
    text = "".join("\t".join(map(str, row)) + "\n" for row in [*rows, ("total", *total)])
    if update:
        TABLE.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
