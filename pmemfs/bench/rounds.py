"""Interleaved rounds: in each round every workload runs once on every peer, in turn.

So a change of the machine's mood meets all peers alike. Each round starts with another peer. Every
run gets a new file system, which is gone again when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pmemfs.bench.peers import Peer, Site
from pmemfs.bench.ratios import Measure
from pmemfs.bench.workloads import Outcome, Scale, Workload

Tell = Callable[[str], None]


@dataclass
class Results:
    """All figures: ``samples[measure][peer][round]``, and what went wrong, as sentences."""

    peers: dict[str, str]
    measures: list[Measure]
    left_out: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, number: int, peer: str, outcome: Outcome) -> None:
        """Take over the figures that are asked for."""
        for measure in self.measures:
            if measure.name in outcome.figures:
                by_peer = self.samples.setdefault(measure.name, {})
                by_peer.setdefault(peer, {})[number] = outcome.figures[measure.name]


@dataclass(frozen=True)
class Plan:
    """What to run."""

    peers: Sequence[Peer]
    workloads: Sequence[Workload]
    wanted: Collection[str]
    rounds: int
    scale: Scale


def run_rounds(plan: Plan, results: Results, scratch: Path, tell: Tell) -> None:
    """Run the plan and fill the results; what is there stays there when interrupted."""
    for workload in plan.workloads:
        workload.prepare(scratch, plan.scale)
    for number in range(1, plan.rounds + 1):
        first = (number - 1) % len(plan.peers)
        for workload in plan.workloads:
            for peer in [*plan.peers[first:], *plan.peers[:first]]:
                tell(f"round {number}/{plan.rounds}: {workload.name} on {peer.name}")
                outcome = run_once(plan, workload, peer, scratch)
                results.add(number, peer.name, outcome)
                for where, error in outcome.errors.items():
                    results.errors.append(f"round {number}, {peer.name}, {where}: {error}")
                    tell(f"  {where}: {error}")


def run_once(plan: Plan, workload: Workload, peer: Peer, scratch: Path) -> Outcome:
    """Run a workload on a new file system of a peer; errors are part of what it gives."""
    outcome = Outcome()
    try:
        with Site(peer, scratch, plan.scale.image_bytes) as site:
            try:
                outcome = workload.run(site, plan.scale, plan.wanted)
            finally:
                for place, line in enumerate(site.complaints()[:3], 1):
                    outcome.errors[f"{workload.name}, log {place}"] = line
    except OSError as error:
        outcome.errors[workload.name] = str(error)
    return outcome
