"""Mend the superblock copies and the control page."""

from __future__ import annotations

from pmemfs.fsck.draft import Way
from pmemfs.fsck.mend.mending import Mending
from pmemfs.layout.geometry import CONTROL_OFFSET, SUPERBLOCK_OFFSET
from pmemfs.layout.records import CONTROL, MAX_GENERATION, SUPERBLOCK, seal

_RESERVED = [name for name in CONTROL.offset_of if name.startswith("reserved")]


def mend_superblock(m: Mending) -> None:
    """Write the good superblock, without what must not be in it, to both places."""
    label = m.image.superblock["label"].split(b"\0")[0].decode("utf-8", "ignore").encode()
    values = m.image.superblock | {"reserved": b"", "label": label}
    values.pop("checksum")
    good = seal(SUPERBLOCK, **values)
    check = next(c for c in ("superblock-copy", "superblock-fields") if c in m.report.counts)
    if m.draft.begin(check, "write the good superblock to both places"):
        m.draft.put(m.image.geometry.backup_superblock_offset, good, Way.PLAIN)
        m.draft.put(SUPERBLOCK_OFFSET, good, Way.PLAIN)
        m.image.superblock = SUPERBLOCK.unpack(good)


def mend_sequence(m: Mending) -> None:
    """Begin to count transactions anew; the newest inode then says how far they had come."""
    if m.draft.begin("control-sequence", "count transactions from what the inodes say"):
        m.draft.set_sequence(0)


def mend_control(m: Mending) -> None:
    """Clear what is set in the control page and must not be."""
    if m.draft.begin("control-fields", "clear the fields of the control page that are not used"):
        for name in _RESERVED:
            size = len(m.image.control()[name])
            m.draft.put(CONTROL_OFFSET + CONTROL.offset_of[name], bytes(size), Way.PLAIN)
        if m.image.control()["persist"] > 1:
            m.draft.put(CONTROL_OFFSET + CONTROL.offset_of["persist"], bytes(8), Way.PLAIN)
        if m.image.control()["generation"] > MAX_GENERATION:
            newest = _newest_generation(m).to_bytes(8, "little")
            m.draft.put(CONTROL_OFFSET + CONTROL.offset_of["generation"], newest, Way.PLAIN)


def _newest_generation(m: Mending) -> int:
    """Return the newest mount generation that a head can know."""
    newest = 0
    for first, stop in m.image.iter_head_ranges():
        generations = m.image.heads["generation"][first:stop]
        newest = max(newest, int(generations[generations <= MAX_GENERATION].max(initial=0)))
    return newest
