"""A committed transaction with one bit damaged: nobody may replay it."""

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
    state = next(s for s in recording.states() if needs_replay(s.image))
    image, rng = state.image, random.Random(recording.case.name)
    slot = journal_slot_offset(int.from_bytes(image.word(COMMITTED_OFFSET), "little"))
    header = JOURNAL_HEADER.unpack(image.page(slot >> 12), slot & 4095)
    used_bytes = JOURNAL_HEADER.size_bytes + header["payload_bytes"]
    for bit in rng.sample(range(8 * used_bytes), _FLIPS):
        damaged = _flipped(image, slot, bit)
        with materialised(damaged) as path:
            for read_only in (True, False):
                options = options_of(recording.case, Clock(), read_only=read_only)
                assert _is_refused(path, options), f"bit {bit} of the journal is not seen"
            checked = Image.open(path, lock="shared")
            findings = check(checked).findings
            checked.close()
        assert findings, f"fsck does not see bit {bit} of the journal"


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
