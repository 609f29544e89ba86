"""The bench of crashed repairs: records what a repair stores, and takes a crashed one further.

A state that fails has an id, ``fsck:DAMAGE@SAMPLES/STATE``; ``make replay ID=...`` brings it back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fsck_image import HandImage
from fsck_tree import Tree, make, tree_of
from replaying import limits

from pmemfs.device import RecordingDevice
from pmemfs.device.crash import CrashState, CrashStates, SparseImage
from pmemfs.device.recording import Event
from pmemfs.fsck import everything, repair

PREFIX = "fsck:"  # of the ids of states


class Recorder(RecordingDevice):
    """Records from the start; the last one made is kept."""

    last: Recorder

    def __init__(self, fd: int, size_bytes: int) -> None:
        super().__init__(fd, size_bytes)
        Recorder.last = self
        self.start()


def record_repair(image: HandImage) -> tuple[SparseImage, list[Event]]:
    """Return the damaged image, and what a repair stores."""
    with image.path.open("rb") as file:
        base = SparseImage.load(file.fileno(), image.geometry.device_bytes)
    plan = repair(image.path, decide=everything, device_class=Recorder, now_ns=lambda: 1)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    return base, Recorder.last.stop()


def known(tree: Tree) -> Tree:
    """Return a tree without the times and sizes that depend on how often it was mended."""
    return {
        path: {name: value for name, value in shown.items() if name != "size"}
        if stat.S_ISDIR(shown["mode"])
        else shown
        for path, shown in tree.items()
    }


@dataclass
class MendedDamage:
    """The repair of one damage: what it stores to which image, and what has to be there then.

    ``whole`` is the tree that a repair without a crash leaves, ``cost`` has the paths in it that
    one with a crash may lose.
    """

    name: str
    base: SparseImage
    events: list[Event]
    whole: Tree
    cost: set[bytes]

    def states(self, samples: int) -> CrashStates:
        """Enumerate the crashes; ``samples`` says how many of an epoch that has too many."""
        return CrashStates(
            self.base,
            self.events,
            **limits(samples),
        )

    def validate(self, state: CrashState, samples: int) -> None:
        """Repair a state again, and assert that it is clean and nothing is lost."""
        try:
            validate(state, self.whole, self.cost)
        except Exception as error:
            error.add_note(f"make replay ID={PREFIX}{self.name}@{samples}/{state.id}")
            raise


def record_damage(
    path: Path, damage: Callable[[HandImage], None], cost: set[bytes] | None = None
) -> MendedDamage:
    """Make an image at ``path``, damage it, and record its repair."""
    image = make(path)
    damage(image)
    base, events = record_repair(image)
    image.close()
    return MendedDamage(damage.__name__, base, events, known(tree_of(path)), cost or set())


def validate(state: CrashState, whole: Tree, cost: set[bytes]) -> None:
    fd = state.image.materialise()
    path = Path(f"/proc/self/fd/{fd}")
    try:
        plan = repair(path, decide=everything, now_ns=lambda: 1)
        assert plan.is_complete, (state.id, [str(finding) for finding in plan.left.findings])
        assert repair(path, decide=everything).is_empty, state.id
        tree = known(tree_of(path))
        lost = {name for name in whole if tree.get(name) != whole[name]}
        assert lost <= cost, (state.id, [str(made) for made in plan.repairs])
    finally:
        os.close(fd)
