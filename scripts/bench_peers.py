#!/usr/bin/env python3
"""Compare pmemfs with other file systems on the same work, in interleaved rounds.

The work is here in short; each part says more: pmemfs.bench.peers, workloads, fio, client.
"""

from __future__ import annotations

import fnmatch
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from pmemfs.bench import output, peers, workloads
from pmemfs.bench.peers import Peer
from pmemfs.bench.picture import validate_picture
from pmemfs.bench.process import interruptible
from pmemfs.bench.ratios import Measure
from pmemfs.bench.rounds import Plan, Results, run_rounds
from pmemfs.bench.workloads import Workload
from pmemfs.bench.writable import validate_writable, writing
from pmemfs.cli import table
from pmemfs.errors import PmemfsError

EXIT_INTERRUPTED = 130
PLACE = Path("/dev/shm")
ROUNDS = 3
QUICK_ROUNDS = 1
BUSY_LOAD = 0.5


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--quick", is_flag=True, help="One round of fewer, shorter runs: a few minutes.")
@click.option("--rounds", type=click.IntRange(1, 100), help="How often everything runs (3).")
@click.option("--only", metavar="WORKLOAD,...", help="Only these workloads or measures; * matches.")
@click.option(
    "--peers", "peer_names", metavar="PEER,...", help="Only these; the first is compared."
)
@click.option("--list", "list_only", is_flag=True, help="List peers, workloads and measures.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write everything here.")
@click.option("--png", "png_path", type=click.Path(path_type=Path), help="Write a bar chart here.")
@click.option(
    "--place", type=click.Path(exists=True, file_okay=False, path_type=Path), default=PLACE,
    show_default=True, help="Where all peers store; a tmpfs.",
)  # fmt: skip
@click.pass_context
def main(
    context: click.Context,
    quick: bool,
    rounds: int | None,
    only: str | None,
    peer_names: str | None,
    list_only: bool,
    json_path: Path | None,
    png_path: Path | None,
    place: Path,
) -> None:
    r"""Compare pmemfs with other file systems on the same work.

    In each round every workload runs once on every peer, each time on a new, empty file system
    whose storage is in the same tmpfs. Printed are the ratios of the medians of all rounds, the
    first peer (native) against each other one: 2.00x is twice as fast. The goal of the project
    stands in brackets, with: met; close, when only some rounds reach it; not met.

    What is warm: the storage always, it is memory. Nothing is dropped for the whole machine.
    Measures called -cold follow a fresh mount (files, tree), or the kernel's pages of the file
    are dropped (fio); all others find in the kernel's caches what earlier steps left there, and
    buffered reads a file that has just been read. Writes called -fresh grow a new file. Buffered
    sequential writes, create, unpack and cp-a are timed until fsync or syncfs returns. stat-new
    is the first stat of each file after its making, stat the second.

    Peers that do not work here are named and left out, with what to install. Mounting needs root.
    All rounds take about an hour on two cores. Interrupted, it cleans up and prints what it has.

    \b
    Examples:
      scripts/bench_peers.py --quick
      scripts/bench_peers.py --only files,tree --peers native,ext4-loop
      scripts/bench_peers.py --only 'rand*-direct-d1-j1' --rounds 9
      scripts/bench_peers.py --json peers.json --png peers.png
    """
    chosen = select_peers(peer_names)
    work, measures = select_work(only, quick=quick)
    if list_only:
        show_list(chosen, work, measures)
        return
    if png_path:
        validate_picture(png_path)
    if json_path:
        validate_writable(json_path)
    scale = workloads.QUICK if quick else workloads.FULL
    workloads.validate_room(place, scale)
    facts = output.environment()
    tell = Progress().tell
    tell_if_busy(facts)
    results = Results({}, [])
    interrupted = False
    try:
        with interruptible(), peers.scratch_directory(place) as scratch:
            usable = try_peers(chosen, scratch, results)
            work = try_workloads(work, results)
            results.measures += [m for m in measures if any(m in w.measures for w in work)]
            wanted = {measure.name for measure in results.measures}
            plan = Plan(usable, work, wanted, rounds or (QUICK_ROUNDS if quick else ROUNDS), scale)
            run_rounds(plan, results, scratch, tell)
    except KeyboardInterrupt:
        interrupted = True
        click.echo("interrupted: everything is unmounted and removed", err=True)
    report(results)
    if json_path:
        with writing(json_path):
            json_path.write_text(json.dumps(output.document(results, facts), indent=2) + "\n")
    if png_path and results.samples:
        output.write_chart(results, png_path)
    context.exit(EXIT_INTERRUPTED if interrupted else 1 if results.errors else 0)


class Progress:
    """Lines on stderr, with the time since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def tell(self, text: str) -> None:
        """Write one line."""
        click.echo(f"[{time.monotonic() - self._begin:5.0f} s] {text}", err=True)


def select_peers(names: str | None) -> list[Peer]:
    """Return the peers that are asked for, in that order."""
    known = peers.all_peers()
    wanted = list(dict.fromkeys(names.split(","))) if names else list(peers.DEFAULT_PEERS)
    for name in wanted:
        if name not in known:
            raise click.BadParameter(
                f"no peer is called '{name}'; there are {', '.join(known)}", param_hint="'--peers'"
            )
    return [known[name] for name in wanted]


def select_work(only: str | None, *, quick: bool) -> tuple[list[Workload], list[Measure]]:
    """Return the workloads and measures that are asked for, by name or pattern."""
    everything = workloads.all_workloads()
    pairs = [(workload, measure) for workload in everything for measure in workload.measures]
    if only:
        patterns = [pattern for pattern in only.split(",") if pattern]
        for pattern in patterns:
            if not any(matches(pair, pattern) for pair in pairs):
                raise click.BadParameter(
                    f"nothing is called '{pattern}'; --list shows what there is",
                    param_hint="'--only'",
                )
        pairs = [pair for pair in pairs if any(matches(pair, pattern) for pattern in patterns)]
    if quick and not only:
        pairs = [pair for pair in pairs if workloads.is_quick(pair[1])]
    chosen = {workload.name for workload, _ in pairs}
    return [w for w in everything if w.name in chosen], [measure for _, measure in pairs]


def matches(pair: tuple[Workload, Measure], pattern: str) -> bool:
    """Whether a pattern names a measure or its workload."""
    return any(fnmatch.fnmatch(each.name, pattern) for each in pair)


def show_list(
    chosen: Sequence[Peer], work: Sequence[Workload], measures: Sequence[Measure]
) -> None:
    """Print what would run."""
    missing = [(peer, peer.missing()) for peer in chosen]
    table.table(["peer", "what it is"], [(p.name, why or p.summary) for p, why in missing])
    click.echo()
    rows = [
        (w.name, m.name, m.unit, m.kind.value) for w in work for m in w.measures if m in measures
    ]
    table.table(["workload", "measure", "unit", "kind"], rows)


def tell_if_busy(facts: dict[str, object]) -> None:
    """Warn if something else is running."""
    load = facts["load_1min"]
    if isinstance(load, float) and load > BUSY_LOAD:
        click.echo(
            f"warning: the machine is busy (load {load:.1f}); figures will scatter", err=True
        )


def try_peers(chosen: Sequence[Peer], scratch: Path, results: Results) -> list[Peer]:
    """Mount each peer once; name and leave out those that do not work."""
    usable = []
    for peer in chosen:
        why = peers.probe(peer, scratch)
        if why is None:
            usable.append(peer)
            results.peers[peer.name] = peer.summary
        else:
            results.left_out[peer.name] = why
            click.echo(f"left out: {peer.name}: {why}", err=True)
    if not usable:
        raise PmemfsError(38, "no peer works here")
    return usable


def try_workloads(work: Sequence[Workload], results: Results) -> list[Workload]:
    """Name and leave out workloads whose programs are not there."""
    usable = []
    for workload in work:
        why = workload.missing()
        if why is None:
            usable.append(workload)
        else:
            results.left_out[workload.name] = why
            click.echo(f"left out: {workload.name}: {why}", err=True)
    return usable


def report(results: Results) -> None:
    """Print all that was found."""
    if results.samples:
        table.heading("Medians")
        table.table(*output.median_table(results))
        table.heading("Ratios: how many times faster, and the goal")
        table.table(*output.ratio_table(results))
        table.heading("Goals")
        for line in output.goal_lines(results):
            table.line(f"  {line}")
    if results.peers:
        table.heading("Peers")
        table.facts(results.peers.items())
    if results.left_out:
        table.heading("Left out")
        table.facts(results.left_out.items())
    if results.errors:
        table.heading("Errors")
        for line in results.errors:
            table.line(f"  {line}")


if __name__ == "__main__":
    try:
        main()
    except PmemfsError as error:
        sys.exit(f"bench_peers: {error}")
