"""A committed transaction with one bit damaged: nobody may replay it.

Such a state has the id ``damaged-journal:CASE/BIT``.
"""

from __future__ import annotations

import random

from crash_case import Clock, Recording, materialised, needs_replay, options_of

from pmemfs.device import SparseImage
from pmemfs.errors import DamagedImageError
from pmemfs.fs.volume import Options, Volume
from pmemfs.fsck import check
from pmemfs.image import Image
from pmemfs.journal.journal import COMMITTED_OFFSET
from pmemfs.layout.geometry import journal_slot_offset
from pmemfs.layout.records import JOURNAL_HEADER

DAMAGED = "damaged-journal:"
_FLIPS = 40


def check_damaged_journal(recording: Recording) -> None:
    """Flip bits of the journal of a case, one at a time; assert that it is never replayed."""
    image, slot = _committed(recording)
    header = JOURNAL_HEADER.unpack(image.page(slot >> 12), slot & 4095)
    used_bytes = JOURNAL_HEADER.size_bytes + header["payload_bytes"]
    rng = random.Random(recording.case.name)
    for bit in rng.sample(range(8 * used_bytes), _FLIPS):
        check_damaged_bit(recording, bit)


def check_damaged_bit(recording: Recording, bit: int) -> None:
    """Flip one bit of the journal of a case, counted from the start of its slot."""
    name = f"{DAMAGED}{recording.case.name}/{bit}"
    image, slot = _committed(recording)
    with materialised(_flipped(image, slot, bit)) as path:
        for read_only in (True, False):
            options = options_of(recording.case, Clock(), read_only=read_only)
            assert _is_refused(path, options), f"{name}: the bit is not seen"
        checked = Image.open(path, lock="shared")
        findings = check(checked).findings
        checked.close()
    assert findings, f"{name}: fsck does not see the bit"


def _committed(recording: Recording) -> tuple[SparseImage, int]:
    """Return the first state that needs its journal, and where the slot of that begins."""
    state = next(s for s in recording.states() if needs_replay(s.image))
    committed = int.from_bytes(state.image.word(COMMITTED_OFFSET), "little")
    return state.image, journal_slot_offset(committed)


def _is_refused(path: str, options: Options) -> bool:
    """Whether an image is not opened, or, read-only, its journal passed over and said so."""
    try:
        volume = Volume.open(path, options)
    except DamagedImageError:
        return not options.read_only
    volume.abandon()
    return options.read_only and volume.replay is None and bool(volume.image.passed_over)


def _flipped(image: SparseImage, slot: int, bit: int) -> SparseImage:
    damaged = image.copy()
    address = slot + bit // 8
    byte = image.page(address >> 12)[address & 4095] ^ 1 << bit % 8
    damaged.store(address, bytes([byte]))
    return damaged
