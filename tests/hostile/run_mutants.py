"""The long run of mutants: ``make mutants ARGS="--count 10000 --seed 1 --jobs 2"``.

Each worker is a process with limits on memory and time. One that dies, or that hangs where no
signal reaches it, costs the mutant it was at, which counts as failed; another takes over.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from mutant_run import Bench, MutantId, Outcome, limit_memory  # noqa: E402

WALL_LIMIT_S = 300.0
SHOWN = 20
REPORT_EVERY = 500

_fork = multiprocessing.get_context("fork")


def _scratch() -> tempfile.TemporaryDirectory[str]:
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="pmemfs-mutants-", dir=where)


def _work(pipe: Connection, folder: str, mutants: list[MutantId], nice: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(nice)
    logging.getLogger("pmemfs").addHandler(logging.NullHandler())  # what is damaged is expected
    bench = Bench(Path(folder))
    limit_memory()
    for mutant in mutants:
        pipe.send(mutant)
        pipe.send(bench.run(mutant))
    pipe.send(None)


class Worker:
    """One process, its share of the mutants, and the one that it is at."""

    def __init__(self, mutants: list[MutantId], nice: int) -> None:
        self.left = mutants
        self.nice = nice
        self.current: MutantId | None = None
        self.is_done = False
        self._start()

    def _start(self) -> None:
        self._scratch = _scratch()
        self.pipe, theirs = _fork.Pipe()
        arguments = (theirs, self._scratch.name, self.left, self.nice)
        self.process = _fork.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.deadline = time.monotonic() + WALL_LIMIT_S

    def receive(self) -> Outcome | None:
        """Take the next message; return an outcome if it is one."""
        try:
            message = self.pipe.recv()
        except EOFError:
            return self._failed("the worker died")
        self.deadline = time.monotonic() + WALL_LIMIT_S
        if message is None:
            self.is_done = True
        elif isinstance(message, Outcome):
            self.left = self.left[1:]
            self.current = None
            return message
        else:
            self.current = message
        return None

    def check_deadline(self) -> Outcome | None:
        """Kill the process if it hangs, and go on behind the mutant that it was at."""
        if time.monotonic() < self.deadline:
            return None
        self.process.kill()
        return self._failed(f"no answer in {WALL_LIMIT_S:.0f} s")

    def _failed(self, why: str) -> Outcome:
        self.process.join()
        mutant = self.left[0]
        outcome = Outcome(mutant, failure=f"{why} (exit status {self.process.exitcode})")
        self.left = self.left[1:]
        self.is_done = not self.left
        self._scratch.cleanup()
        if self.left:
            self._start()
        return outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self._scratch.cleanup()


def run_workers(mutants: list[MutantId], jobs: int, nice: int = 0) -> Iterator[Outcome]:
    """Run all mutants in ``jobs`` processes; give the outcomes as they come."""
    workers = [Worker(mutants[number::jobs], nice) for number in range(jobs) if mutants[number:]]
    try:
        while active := [worker for worker in workers if not worker.is_done]:
            ready = multiprocessing.connection.wait([worker.pipe for worker in active], timeout=5)
            for worker in active:
                in_time = worker.pipe in ready
                outcome = worker.receive() if in_time else worker.check_deadline()
                if outcome is not None:
                    yield outcome
    finally:
        for worker in workers:
            worker.stop()


def replay(mutant: MutantId, keep: str | None) -> bool:
    """Run one mutant in this process and print all of it; tell whether it failed."""
    with _scratch() as folder:
        bench = Bench(Path(folder))
        if keep:
            bench.mutant_path = Path(keep)
            click.echo(f"{mutant}: {bench.make(mutant)}\n{keep}: the mutant, of {mutant.base}")
            return False
        limit_memory()
        outcome = bench.run(mutant)
    click.echo(f"{mutant} of {mutant.base}: {outcome.damage}\n{outcome.kind}")
    click.echo("".join(f"  {sentence}\n" for sentence in outcome.sentences), nl=False)
    click.echo(outcome.failure)
    return bool(outcome.failure)


@click.command()
@click.option("--count", default=500, show_default=True, help="How many mutants.")
@click.option("--seed", default=1, show_default=True, help="Another seed, other mutants.")
@click.option("--first", default=0, help="The number of the first.")
@click.option("--jobs", default=2, show_default=True, help="How many processes.")
@click.option("--nice", default=0, help="Lower the priority of the processes by so much.")
@click.option("--replay", "replay_id", metavar="SEED.NUMBER", help="Run this one, show all.")
@click.option("--keep", metavar="FILE", help="With --replay: only make the image, there.")
def main(
    count: int, seed: int, first: int, jobs: int, nice: int, replay_id: str | None, keep: str | None
) -> None:
    """Damage real images in COUNT ways, and use each with everything there is.

    \b
    Examples:
      make mutants ARGS="--count 10000 --seed 1 --jobs 2"
      make mutants ARGS="--replay 1.4711"
      make mutants ARGS="--replay 1.4711 --keep mutant.img"
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind
    if replay_id is not None:
        sys.exit(replay(MutantId.parse(replay_id), keep))
    mutants = [MutantId(seed, first + number) for number in range(count)]
    figures = Figures(count)
    with Progress(console=Console(stderr=True)) as bar, contextlib.suppress(KeyboardInterrupt):
        task = bar.add_task("mutants", total=count)
        for outcome in run_workers(mutants, jobs, nice):
            figures.add(outcome)
            if outcome.failure and len(figures.failures) <= SHOWN:
                last = outcome.failure.strip().splitlines()[-1]
                bar.console.print(f"{outcome.mutant}: {last[:300]}", markup=False)
            if not bar.console.is_terminal and figures.done % REPORT_EVERY == 0:
                bar.console.print(f"{figures.done} of {count}, {len(figures.failures)} failed")
            bar.update(task, advance=1, description=f"mutants, {len(figures.failures)} failed")
    figures.print()
    sys.exit(bool(figures.failures) or figures.done < count)


class Figures:
    """What a run counts; printed at its end, also of one that is interrupted."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kinds: Counter[str] = Counter()
        self.failures: list[Outcome] = []
        self.by_fsck = self.repaired = 0
        self._begin = time.monotonic()

    @property
    def done(self) -> int:
        return self.kinds.total()

    def add(self, outcome: Outcome) -> None:
        self.kinds[outcome.kind] += 1
        self.by_fsck += outcome.found_by_fsck
        self.repaired += outcome.repaired
        if outcome.failure:
            self.failures.append(outcome)

    def print(self) -> None:
        of_all = "" if self.done == self.count else f" of {self.count}, interrupted"
        click.echo(f"{self.done} mutants{of_all} in {time.monotonic() - self._begin:.0f} s")
        for kind, number in self.kinds.most_common():
            click.echo(f"  {number:6} {kind}")
        click.echo(f"  {self.by_fsck:6} damage found by fsck, in all")
        click.echo(f"  {self.repaired:6} repaired, then used and clean")
        for outcome in self.failures[:SHOWN]:
            click.echo(f'make mutants ARGS="--replay {outcome.mutant}"    {outcome.damage}')


if __name__ == "__main__":
    main()
