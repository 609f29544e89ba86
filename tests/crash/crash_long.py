"""The long run: all ordered pairs, then random sequences by seed, until enough states are seen.

Work is cut into units, each done whole by one process; what a unit found is appended to a file
before the next is counted, so a run that is killed goes on where it was. The file belongs to the
arguments and to the code it tested: another engine starts anew.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from crash_oracle import Crasher, Oracle
from crash_sequences import STEPS, pair_names, record_sequence
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ROOT = Path(__file__).parents[2]
RANDOM_BATCH = 20
_MASK = (1 << 64) - 1

_oracle: Oracle | None = None


@dataclass
class Unit:
    """What one unit of work found; ``states`` and ``outcomes`` are 64-bit digests."""

    name: str
    cases: int = 0
    impossible: int = 0
    enumerated: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    states: array[int] = field(default_factory=lambda: array("Q"))
    outcomes: array[int] = field(default_factory=lambda: array("Q"))


def names_of(unit: str) -> list[str]:
    """Return the names of the sequences of a unit."""
    kind, _, rest = unit.partition(":")
    if kind == "pairs":
        return pair_names(rest)
    seed, _, first = rest.partition(".")
    return [f"random:{seed}.{number}" for number in range(int(first), int(first) + RANDOM_BATCH)]


def iter_units(seed: int, *, pairs: bool) -> Iterator[str]:
    """Iterate the names of all units, without end."""
    if pairs:
        yield from (f"pairs:{step.name}" for step in STEPS)
    first = 0
    while True:
        yield f"random:{seed}.{first}"
        first += RANDOM_BATCH


def run_unit(task: tuple[str, int]) -> Unit:
    """Record all sequences of a unit and hold their states against the oracle."""
    global _oracle
    if _oracle is None:
        _oracle = Oracle()
    name, samples = task
    unit, start = Unit(name), time.process_time()
    states: set[int] = set()
    outcomes: set[int] = set()
    for sequence in names_of(name):
        try:
            recording = record_sequence(sequence)
        except Exception as error:
            unit.failures.append(f"{sequence}@{samples}/: {type(error).__name__}: {error}"[:600])
            continue
        if recording is None:
            unit.impossible += 1
            continue
        crasher = Crasher(recording, _oracle, name=sequence)
        crasher.run(samples)
        unit.cases += 1
        unit.enumerated += crasher.enumerated
        unit.failures += crasher.failures
        states |= crasher.found
        outcomes |= {(o.structure + 3 * o.data) & _MASK for (o, _) in crasher.outcomes}
    unit.states, unit.outcomes = array("Q", sorted(states)), array("Q", sorted(outcomes))
    unit.seconds = time.process_time() - start
    return unit


class Ledger:
    """What all units so far found, in memory and in two files that a later run goes on from."""

    def __init__(self, directory: Path, name: str) -> None:
        self.lines = directory / f"{name}.jsonl"
        self.digests = directory / f"{name}.u64"
        self.done: dict[str, dict[str, Any]] = {}
        self.states: set[int] = set()
        self.outcomes: set[int] = set()
        directory.mkdir(exist_ok=True)
        self._load()

    def _load(self) -> None:
        """Read what is whole; a unit that was being written is cut off and done again."""
        lines = self.lines.read_text().splitlines() if self.lines.exists() else []
        raw = self.digests.read_bytes() if self.digests.exists() else b""
        position = 0
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                break
            end = position + 8 * (entry["states"] + entry["outcomes"])
            if end > len(raw):
                break
            digests = array("Q", raw[position:end])
            self._count(entry, digests[: entry["states"]], digests[entry["states"] :])
            position = end
        self.lines.write_text("".join(json.dumps(entry) + "\n" for entry in self.done.values()))
        self.digests.write_bytes(raw[:position])

    def _count(self, entry: dict[str, Any], states: array[int], outcomes: array[int]) -> None:
        self.done[entry["name"]] = entry
        self.states.update(states)
        self.outcomes.update(outcomes)

    def add(self, unit: Unit, wall_s: float) -> None:
        """Count a unit and write it down."""
        entry = asdict(unit) | {"states": len(unit.states), "outcomes": len(unit.outcomes)}
        entry["wall_s"] = wall_s
        with self.digests.open("ab") as file:
            file.write(unit.states.tobytes() + unit.outcomes.tobytes())
        with self.lines.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._count(entry, unit.states, unit.outcomes)

    def total(self, key: str) -> float:
        """Return the sum of a figure over all units."""
        return sum(entry[key] for entry in self.done.values())

    @property
    def failures(self) -> list[str]:
        """The ids of what failed, each with its reason."""
        return [failure for entry in self.done.values() for failure in entry["failures"]]


def fingerprint() -> str:
    """Return a digest of the code that a run tests and of the bench itself."""
    digest = hashlib.blake2b(digest_size=6)
    for folder in ("pmemfs", "tests/crash"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def run(
    ledger: Ledger, tasks: Iterator[tuple[str, int]], states: int, jobs: int, console: Console
) -> None:
    """Do units until there are enough distinct states."""
    todo = (task for task in tasks if task[0] not in ledger.done)
    pool = multiprocessing.get_context("fork").Pool(jobs, _ignore_interrupts)
    progress = Progress(
        TextColumn("[bold]{task.fields[unit]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("states, {task.fields[failures]} failures"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    before = time.monotonic()
    try:
        with progress:
            bar = progress.add_task(
                "", total=states, completed=len(ledger.states), unit="begin", failures=0
            )
            pending = [
                pool.apply_async(run_unit, (task,)) for task, _ in zip(todo, range(jobs + 1))
            ]
            while len(ledger.states) < states:
                ready = next((result for result in pending if result.ready()), None)
                if ready is None:
                    pending[0].wait(0.2)
                    progress.refresh()
                    continue
                pending.remove(ready)
                unit = ready.get()
                now = time.monotonic()
                ledger.add(unit, now - before)
                before = now
                n, failures = len(ledger.states), len(ledger.failures)
                progress.update(bar, completed=n, unit=unit.name, failures=failures)
                if not console.is_terminal:
                    console.print(f"{unit.name}: {n} states, {failures} failures")
                pending.append(pool.apply_async(run_unit, (next(todo),)))
    finally:
        pool.terminate()
        pool.join()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool


def report(ledger: Ledger, console: Console) -> None:
    """Print the figures."""
    pairs = [entry for name, entry in ledger.done.items() if name.startswith("pairs:")]
    cpu, wall = ledger.total("seconds"), ledger.total("wall_s")
    rows = {
        "ordered pairs": f"{sum(e['cases'] for e in pairs):,} of {len(STEPS) ** 2:,}"
        f" ({sum(e['impossible'] for e in pairs):,} not possible)",
        "random sequences": f"{ledger.total('cases') - sum(e['cases'] for e in pairs):,.0f}",
        "states enumerated": f"{ledger.total('enumerated'):,.0f}",
        "distinct before recovery": f"{len(ledger.states):,}",
        "distinct outcomes": f"{len(ledger.outcomes):,}",
        "failures": f"{len(ledger.failures):,}",
        "time": f"{wall:,.0f} s ({cpu:,.0f} s of CPU)",
        "speed": f"{len(ledger.states) / max(cpu, 0.001):,.0f} states per s of CPU",
    }
    for name, value in rows.items():
        console.print(f"{name + ':':26}{value}")
    for failure in ledger.failures[:50]:
        console.print(failure, style="red")
    if ledger.failures:
        console.print("reproduce one with: make replay ID='CASE@SAMPLES/STATE'")


@click.command(
    epilog="\b\nExamples:\n  make crash\n"
    '  make crash ARGS="--states 20000 --jobs 4"\n  make crash ARGS="--seed 7 --samples 32"'
)
@click.option("--states", default=500_000, show_default=True, help="Distinct states to reach.")
@click.option("--seed", default=1, show_default=True, help="Seed of the random sequences.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
@click.option("--samples", default=12, show_default=True, help="States of an epoch, scaled.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / ".crash",
    help="Where to keep what has been done; default: .crash of the project.",
)
@click.option("--pairs/--no-pairs", default=True, help="Begin with the pairs, or leave them out.")
@click.option("--fresh", is_flag=True, help="Forget what an earlier run has done.")
def main(
    states: int, seed: int, jobs: int, samples: int, directory: Path, pairs: bool, fresh: bool
) -> None:
    """Crash all ordered pairs of operations on two files in two directories, then random
    sequences, and hold every state against the oracle.

    Killed and started again with the same arguments, it goes on. Exit status 1: a state failed.
    """
    console = Console(soft_wrap=True, highlight=False)
    ledger = Ledger(directory, f"seed-{seed}-samples-{samples}-{fingerprint()}")
    if fresh:
        ledger.lines.unlink()
        ledger.digests.unlink()
        ledger = Ledger(directory, ledger.lines.stem)
    elif ledger.done:
        console.print(f"going on: {len(ledger.done)} units, {len(ledger.states):,} states done")
    try:
        tasks = ((name, samples) for name in iter_units(seed, pairs=pairs))
        run(ledger, tasks, states, jobs, console)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
    report(ledger, console)
    sys.exit(bool(ledger.failures))


if __name__ == "__main__":
    main()
