"""The view ``super``: the superblock and its copy, the control page, and where things are."""

from __future__ import annotations

import os
import uuid
from typing import Any

from pmemfs.errors import DamagedImageError
from pmemfs.inspect.reader import Reader
from pmemfs.inspect.text import decode_name
from pmemfs.layout.geometry import (
    HEAD_TABLE_OFFSET,
    JOURNAL_OFFSET,
    JOURNAL_SLOT_BYTES,
    JOURNAL_SLOTS,
    SUPERBLOCK_OFFSET,
)
from pmemfs.layout.records import MAGIC, NOTHING_TO_REPLAY, SUPERBLOCK, MountState, is_sealed


def superblock(reader: Reader) -> dict[str, Any]:
    """Return ``superblock``, its ``copies``, ``control`` and ``geometry``."""
    offsets = (SUPERBLOCK_OFFSET, reader.geometry.backup_superblock_offset)
    return {
        "superblock": _readable(reader.image.superblock),
        "copies": [_copy(reader, offset) for offset in offsets],
        "control": _control(reader),
        "geometry": _geometry(reader),
    }


def _readable(fields: dict[str, Any]) -> dict[str, Any]:
    out = {name: value for name, value in fields.items() if not name.startswith("reserved")}
    out["uuid"] = str(uuid.UUID(bytes=fields["uuid"]))
    out["hash_seed"] = fields["hash_seed"].hex()
    out["label"] = decode_name(fields["label"].rstrip(b"\0"))
    return out


def _copy(reader: Reader, offset: int) -> dict[str, Any]:
    try:
        data = reader.read(offset, SUPERBLOCK.size_bytes)
    except DamagedImageError as error:
        return {"offset": offset, "magic_valid": False, "checksum_valid": False, "why": str(error)}
    return {
        "offset": offset,
        "magic_valid": SUPERBLOCK.unpack(data)["magic"] == MAGIC,
        "checksum_valid": is_sealed(SUPERBLOCK, data),
    }


def _control(reader: Reader) -> dict[str, Any]:
    fields = {k: v for k, v in reader.control.items() if not k.startswith("reserved")}
    fields["boot_id"] = fields["boot_id"].hex()
    committed = fields["committed"]
    return fields | {
        "committed": committed & ~NOTHING_TO_REPLAY,
        "nothing_to_replay": bool(committed & NOTHING_TO_REPLAY),
        "mounted": fields["state"] != MountState.CLEAN,
    }


def _geometry(reader: Reader) -> dict[str, int]:
    geometry = reader.geometry
    return {
        "n_pages": geometry.n_pages,
        "journal_offset": JOURNAL_OFFSET,
        "journal_bytes": JOURNAL_SLOTS * JOURNAL_SLOT_BYTES,
        "head_table_offset": HEAD_TABLE_OFFSET,
        "head_table_bytes": geometry.head_table_bytes,
        "head_table_extents": geometry.head_table_extents,
        "first_inode_extent": geometry.first_inode_extent,
        "reserve_extent": geometry.reserve_extent,
        "fixed_extents": geometry.fixed_extents,
        "file_bytes": os.fstat(reader.image.fd).st_size,
    }
