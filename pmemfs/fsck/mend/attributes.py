"""Mend extended attributes and the targets of symbolic links."""

from __future__ import annotations

import zlib

from pmemfs.fsck.draft import Risk
from pmemfs.fsck.mend.mending import Mending
from pmemfs.fsck.report import show_name
from pmemfs.fsck.xattrs import name_problem, value_problem
from pmemfs.layout.geometry import (
    PAGE_BYTES,
    SYMLINK_MAX,
    pfn_to_extent,
    pfn_to_offset,
    pfn_to_slot,
)
from pmemfs.layout.records import (
    INLINE_BYTES,
    MAP_WORDS,
    XATTR_ENTRY,
    XATTR_PAGE,
    Kind,
    MapKind,
    Role,
)
from pmemfs.layout.words import owner_word

_SUMMED_BYTES = XATTR_PAGE.offset_of["checksum"]
_HEADER_BYTES = XATTR_PAGE.size_bytes


def claim_page(m: Mending, ino: int, pfn: int, role: Role, what: str) -> bool:
    """Tell whether a metadata page is the inode's, after taking it if it is nobody's."""
    if not 0 < pfn < m.image.geometry.n_pages or pfn_to_slot(pfn) == 0:
        return False
    if m.extents.kind[pfn_to_extent(pfn)] != Kind.METADATA:
        return False
    if m.owners.word_at(pfn) == owner_word(ino, role):
        return pfn not in m.given
    if m.owners.is_claimed(pfn) or pfn in m.given:
        return False
    if not m.draft.begin("map-owner", f"give page {pfn} to inode {ino}, which has it as {what}"):
        return False
    m.draft.set_owner(pfn, owner_word(ino, role))
    m.given.add(pfn)
    return True


def _page(m: Mending, pfn: int) -> bytes:
    start = pfn_to_offset(pfn)
    return bytes(m.image.device.view[start : start + PAGE_BYTES])


# -- extended attributes -------------------------------------------------------------------------


def mend_xattr(m: Mending, ino: int) -> None:
    """Keep what can be read of the attributes of an inode; without any, it has no page."""
    pfn = m.record(ino)["xattr"]
    if not pfn:
        return
    mine = _could_be(m, ino, pfn) and claim_page(m, ino, pfn, Role.XATTR, "its attributes")
    if not mine:
        sentence = f"take the attributes from inode {ino}: their page is not its own"
        if m.draft.begin("map-owner", sentence, Risk.LOSES):
            m.draft.patch_inode(m.offset(ino), xattr=0)
        return
    page = _page(m, pfn)
    problems = [(name, value_problem(name, value)) for name, value in _readable(page)]
    entries = [entry for entry in _readable(page) if value_problem(*entry) is None]
    better = pack_attributes(ino, entries)
    if better == page[: len(better)]:
        return
    check = next((c for c in m.report.counts if c.startswith("xattr-")), "xattr-page")
    sentence = f"keep the {len(entries)} attributes of inode {ino} that can be read"
    sentence += "".join(f"; drop {show_name(name)}, {why}" for name, why in problems if why)
    if m.draft.begin(check, sentence, Risk.LOSES):
        if entries:
            m.draft.put(pfn_to_offset(pfn), better.ljust(PAGE_BYTES, b"\0"))
        else:
            m.draft.patch_inode(m.offset(ino), xattr=0)


def _could_be(m: Mending, ino: int, pfn: int) -> bool:
    """Tell whether a page is the inode's by its owner word, or by what stands in it."""
    if not 0 < pfn < m.image.geometry.n_pages:
        return False
    if m.extents.kind[pfn_to_extent(pfn)] != Kind.METADATA:
        return False
    if m.owners.word_at(pfn) == owner_word(ino, Role.XATTR):
        return True
    page = _page(m, pfn)
    header = XATTR_PAGE.unpack(page)
    return header["ino"] == ino and page[: header["used_bytes"]] == pack_attributes(
        ino, _readable(page)
    )


def _readable(page: bytes) -> list[tuple[bytes, bytes]]:
    """Return the attributes of a page that can be."""
    header = XATTR_PAGE.unpack(page)
    entries: list[tuple[bytes, bytes]] = []
    names: set[bytes] = set()
    position, end = _HEADER_BYTES, min(header["used_bytes"], PAGE_BYTES)
    for _ in range(header["count"]):
        start = position + XATTR_ENTRY.size_bytes
        if start > end:
            return entries
        name_bytes, value_bytes = XATTR_ENTRY.struct.unpack_from(page, position)
        position = start + name_bytes + value_bytes
        name = page[start : start + name_bytes]
        if position > end:
            return entries
        if name_problem(name, names) is None:
            names.add(name)
            entries.append((name, page[start + name_bytes : position]))
    return entries


def pack_attributes(ino: int, entries: list[tuple[bytes, bytes]]) -> bytes:
    """Return header and entries of a page of attributes."""
    body = b"".join(
        XATTR_ENTRY.pack(name_bytes=len(name), value_bytes=len(value)) + name + value
        for name, value in entries
    )
    used = _HEADER_BYTES + len(body)
    header = XATTR_PAGE.pack(ino=ino, count=len(entries), used_bytes=used)[:_SUMMED_BYTES]
    return header + zlib.crc32(header + body).to_bytes(4, "little") + body


# -- symbolic links ------------------------------------------------------------------------------


def mend_symlink(m: Mending, ino: int) -> None:
    """Set the size of a target to its length; clear a link without one."""
    record = m.record(ino)
    if record["pages"] and m.draft.begin("inode-pages", f"count no pages in inode {ino}"):
        m.draft.patch_inode(m.offset(ino), pages=0)
    page = 0 if record["map_kind"] == MapKind.INLINE else record["map"][0]
    if not page:
        data = b"".join(word.to_bytes(8, "little") for word in record["map"])
    elif claim_page(m, ino, page, Role.SYMLINK, "its target"):
        data = _page(m, page)
    else:
        data = b""
    target = data.split(b"\0")[0]
    if target and len(target) <= SYMLINK_MAX:
        _set_target(m, ino, target, page)
    elif m.draft.begin("symlink-target", f"clear symlink {ino}: its target is lost", Risk.LOSES):
        m.draft.put_inode(m.offset(ino))


def _set_target(m: Mending, ino: int, target: bytes, page: int) -> None:
    """Store a target and its size, if that changes anything; what fits is in the inode."""
    inside = target.ljust(INLINE_BYTES, b"\0") if len(target) <= INLINE_BYTES else b""
    if inside:
        words = [int.from_bytes(inside[at : at + 8], "little") for at in range(0, len(inside), 8)]
    else:
        words = [page] + [0] * (MAP_WORDS - 1)
    kind = MapKind.INLINE if inside else MapKind.RUNS
    fields = {"size": len(target), "map_kind": int(kind), "map": tuple(words)}
    padded = target.ljust(PAGE_BYTES, b"\0")
    record = m.record(ino)
    stained = not inside and _page(m, page) != padded
    if not stained and all(record[name] == value for name, value in fields.items()):
        return
    sentence = f"give symlink {ino} the {len(target)} bytes of its target that can be read"
    if m.draft.begin("symlink-target", sentence, Risk.LOSES):
        if stained:
            m.draft.put(pfn_to_offset(page), padded)
        m.draft.patch_inode(m.offset(ino), **fields)
