"""The bench of crashed repairs: records what a repair stores, and takes a crashed one further."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fsck_image import HandImage
from fsck_tree import Tree, tree_of

from pmemfs.device import RecordingDevice
from pmemfs.device.crash import CrashState, SparseImage
from pmemfs.device.recording import Event
from pmemfs.fsck import everything, repair


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
