"""Check the two superblock copies and the control page.

`Image` has already found one good superblock; here the copies are held against each other.
The words of the control page that only mean something while mounted are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from pmemfs.fsck.report import Finding
from pmemfs.image import Image
from pmemfs.layout.geometry import CONTROL_OFFSET, SUPERBLOCK_OFFSET
from pmemfs.layout.records import (
    CONTROL,
    MAGIC,
    MAX_GENERATION,
    MAX_SEQUENCE,
    NOTHING_TO_REPLAY,
    SUPERBLOCK,
    MountState,
    is_sealed,
)
from pmemfs.layout.words import INO_MASK


def check_superblock(image: Image) -> Iterator[Finding]:
    """Yield a finding for each copy that is damaged or differs from the good one."""
    offsets = (
        ("superblock", SUPERBLOCK_OFFSET),
        ("backup superblock", image.geometry.backup_superblock_offset),
    )
    for label, offset in offsets:
        data = bytes(image.device.view[offset : offset + SUPERBLOCK.size_bytes])
        problem = _copy_problem(image, data)
        if problem is not None:
            yield Finding("superblock-copy", f"the {label} {problem}", offset)
    yield from _check_fields(image)


def _copy_problem(image: Image, data: bytes) -> str | None:
    fields = SUPERBLOCK.unpack(data)
    if fields["magic"] != MAGIC:
        return "has no pmemfs magic"
    if not is_sealed(SUPERBLOCK, data):
        return "has a wrong checksum"
    different = [name for name, value in fields.items() if value != image.superblock[name]]
    if different:
        return f"differs from the other copy in {', '.join(different)}"
    return None


def _check_fields(image: Image) -> Iterator[Finding]:
    fields = image.superblock
    if any(fields["reserved"]):
        yield Finding("superblock-fields", "reserved bytes of the superblock are not zero", 0)
    label = fields["label"].rstrip(b"\0")
    try:
        label.decode("utf-8")
        proper = b"\0" not in label
    except UnicodeDecodeError:
        proper = False
    if not proper:
        offset = SUPERBLOCK.offset_of["label"]
        yield Finding("superblock-fields", "the label is not UTF-8 padded with zeros", offset)


def check_control(image: Image) -> Iterator[Finding]:
    """Yield findings about the control page."""
    control = image.control()
    if control["state"] not in tuple(MountState):
        yield _control("control-state", "state", f"mount state {control['state']} is not known")
    if control["state"] == MountState.CLEAN and not control["committed"] & NOTHING_TO_REPLAY:
        text = "the image is marked clean, but a transaction is left to replay"
        yield _control("control-committed", "committed", text)
    if control["committed"] & ~NOTHING_TO_REPLAY > MAX_SEQUENCE:
        text = f"transaction {control['committed'] & ~NOTHING_TO_REPLAY} cannot have been reached"
        yield _control("control-sequence", "committed", text)
    if control["generation"] > MAX_GENERATION:
        text = f"mount generation {control['generation']} cannot have been reached"
        yield _control("control-fields", "generation", text)
    if control["persist"] > 1:
        text = f"persistence mode {control['persist']} is not known"
        yield _control("control-fields", "persist", text)
    if control["orphan_first"] > INO_MASK:
        text = f"the orphan list starts at {control['orphan_first']:#x}, which is no inode number"
        yield _control("orphan-list", "orphan_first", text)
    for name in ("reserved0", "reserved1", "reserved2", "reserved3", "reserved4"):
        if any(control[name]):
            yield _control("control-fields", name, "reserved bytes of the control page are set")


def _control(check: str, name: str, message: str) -> Finding:
    return Finding(check, message, CONTROL_OFFSET + CONTROL.offset_of[name])
