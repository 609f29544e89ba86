"""Bring a recording, or one of its states, back by name: ``CASE@SAMPLES/STATE``.

``SAMPLES`` belongs to the id because it decides which states of a large epoch are taken. Names
of recordings: a case; an image case; ``pair:FIRST+SECOND``; ``random:SEED.NUMBER``; ``mount:ID``,
the mount of the state that has that id, or ``mount:CASE``, of that with no home of its last commit;
``life:MOUNT+MOUNT`` (`crash_lives`);
``disk:`` and the name of a case, a pair or a random one: the same with ``persist=disk``, where
crashes are power losses of the host.
"""

from __future__ import annotations

from dataclasses import replace

from crash_case import Recording, needs_replay, record, record_mount
from crash_cases import CASES
from crash_images import IMAGE_CASES
from crash_lives import LIFE, record_life
from crash_sequences import record_sequence

from pmemfs.device import CrashState
from pmemfs.layout.records import Persist

BY_NAME = {case.name: case for case in CASES}


def recording_of(name: str) -> Recording:
    """Record the case or the sequence of that name; raises ``KeyError`` if there is none."""
    persist = Persist.DISK if name.startswith("disk:") else Persist.CACHE
    name = name.removeprefix("disk:")
    if name.startswith(("pair:", "random:")):
        recording = record_sequence(name, persist)
        if recording is None:
            raise KeyError(name)
        return recording
    if name.startswith(LIFE):
        return record_life(name)
    if name.startswith("mount:"):
        return _recording_of_mount(name.removeprefix("mount:"))
    if name in IMAGE_CASES:
        return IMAGE_CASES[name]()
    return record(replace(BY_NAME[name], persist=persist))


def _recording_of_mount(name: str) -> Recording:
    if "/" in name:
        recording, state = state_of(name)
    else:
        recording = recording_of(name)
        none = [s for s in recording.states(1) if s.id.endswith((".none.0", ".each.0"))]
        state = [s for s in none if needs_replay(s.image)][-1]
    return record_mount(recording.case, state.image)


def state_of(state_id: str) -> tuple[Recording, CrashState]:
    """Return the state of an id, and the recording it is of; raises ``KeyError``."""
    case, _, state = state_id.rpartition("/")
    name, _, samples = case.rpartition("@")
    recording = recording_of(name)
    return recording, recording.states(int(samples)).replay(state)
