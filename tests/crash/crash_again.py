"""What recovery has to hold beside the oracle: done twice it is done once, and mounts add nothing.

Too slow for every state; `test_crash_mounts` asks some, and a replay the one it brings back.
"""

from __future__ import annotations

import os

from crash_case import SIZE, Case, Clock, load, materialised, needs_replay, options_of, tree_of
from crash_scratch import UnbackedDevice
from crash_tree import observe

from pmemfs.device import CrashState, MappedDevice
from pmemfs.fs.volume import Volume
from pmemfs.journal import recover
from pmemfs.journal.journal import COMMITTED_OFFSET

MOUNTS = 3


def require_recovery_twice_is_once(state: CrashState) -> None:
    """Assert it also where the second knows nothing of the first: every byte is the same."""
    if not needs_replay(state.image):
        return
    fd = state.image.materialise()
    try:
        device = MappedDevice(fd, SIZE)
        before = device.words[COMMITTED_OFFSET >> 3]
        recover(device)
        once = load(fd).pages
        device.publish(COMMITTED_OFFSET, before)
        recover(device)
        assert load(fd).pages == once, "a second recovery stores something else"
        assert recover(device) is None, "a recovery leaves something to recover"
        device.close()
    finally:
        os.close(fd)


def require_mounts_change_nothing(state: CrashState, case: Case) -> None:
    """Assert that an image that is mounted and killed again and again shows the same tree."""
    seen = tree_of(state.image, case)
    with materialised(state.image) as path:
        for _ in range(MOUNTS):
            Volume.open(path, options_of(case, Clock()), device_class=UnbackedDevice).abandon()
        volume = Volume.open(path, options_of(case, Clock(), read_only=True))
        again = observe(volume, case.skip)
        volume.close()
    assert again == seen, "mounts change what is seen"
