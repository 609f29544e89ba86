"""Mend owner words and the counts of heads that follow from them."""

from __future__ import annotations

import numpy as np

from pmemfs.fsck.draft import Risk
from pmemfs.fsck.mend.mending import Mending
from pmemfs.layout.geometry import (
    PAGES_PER_EXTENT,
    WORD_BYTES,
    extent_to_offset,
    pfn_to_extent,
    pfn_to_slot,
)
from pmemfs.layout.records import Kind, Role
from pmemfs.layout.words import INO_MASK
from pmemfs.units import count


def mend_words(m: Mending) -> None:
    """Clear owner words that cannot be; maps that have such pages get them back later."""
    for extent in m.subjects("owner-word"):
        if not m.draft.begin("owner-word", f"clear the impossible owner words of extent {extent}"):
            continue
        words = _words(m, extent)
        wrong = words & np.uint64(INO_MASK) == 0
        if m.extents.kind[extent] == Kind.METADATA:
            roles = words >> np.uint64(32)
            wrong |= (roles < min(Role)) | (roles > max(Role))
        wrong[0] = True
        words = np.where(wrong, np.uint64(0), words)
        for slot in np.flatnonzero(wrong).tolist():
            m.draft.put(extent_to_offset(extent) + slot * WORD_BYTES, bytes(WORD_BYTES))
        m.draft.patch_head(extent, used=int(np.count_nonzero(words)))


def mend_counts(m: Mending) -> None:
    """Count the pages in use of an extent anew."""
    for extent in m.subjects("owner-count"):
        used = int(np.count_nonzero(_words(m, extent)))
        if m.draft.begin(
            "owner-count", f"count {count(used, 'page', 'pages')} in use in extent {extent}"
        ):
            m.draft.patch_head(extent, used=used)


def _words(m: Mending, extent: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    start = extent_to_offset(extent)
    page = bytes(m.image.device.view[start : start + PAGES_PER_EXTENT * WORD_BYTES])
    return np.frombuffer(page, "<u8")


def mend_unclaimed(m: Mending) -> None:
    """Free pages and whole extents that no map has."""
    for check, risk in (("owner-unmapped", Risk.SAFE), ("owner-inode", Risk.LOSES)):
        by_extent: dict[int, list[int]] = {}
        for pfn in m.subjects(check):
            by_extent.setdefault(pfn_to_extent(pfn), []).append(pfn)
        why = "no map has" if risk == Risk.SAFE else "no inode owns"
        for extent, mine in by_extent.items():
            if pfn_to_slot(mine[0]) == 0:
                if m.draft.begin(check, f"free extent {extent}, that {why}", risk):
                    m.draft.put_head(extent, Kind.RETURNED)
            elif m.draft.begin(
                check,
                f"free {count(len(mine), 'page', 'pages')} of extent {extent} that {why}",
                risk,
            ):
                for pfn in mine:
                    m.free_page(pfn)
