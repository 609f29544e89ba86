"""Bring a recording, or one of its states, back by name: ``CASE@SAMPLES/STATE``.

``SAMPLES`` belongs to the id because it decides which states of a large epoch are taken. Names
of recordings: a case; an image case; ``pair:FIRST+SECOND``; ``random:SEED.NUMBER``; ``mount:ID``,
the mount of the state that has that id.
"""

from __future__ import annotations

from crash_case import Recording, record, record_mount
from crash_cases import CASES
from crash_images import IMAGE_CASES
from crash_sequences import record_sequence

from pmemfs.device import CrashState

BY_NAME = {case.name: case for case in CASES}


def recording_of(name: str) -> Recording:
    """Record the case or the sequence of that name; raises ``KeyError`` if there is none."""
    if name.startswith(("pair:", "random:")):
        recording = record_sequence(name)
        if recording is None:
            raise KeyError(name)
        return recording
    if name.startswith("mount:"):
        recording, state = state_of(name.removeprefix("mount:"))
        return record_mount(recording.case, state.image)
    if name in IMAGE_CASES:
        return IMAGE_CASES[name]()
    return record(BY_NAME[name])


def state_of(state_id: str) -> tuple[Recording, CrashState]:
    """Return the state of an id, and the recording it is of; raises ``KeyError``."""
    case, _, state = state_id.rpartition("/")
    name, _, samples = case.rpartition("@")
    recording = recording_of(name)
    return recording, recording.states(int(samples)).replay(state)
