"""Mend directories: gather the entries from every leaf that is theirs, and build them anew.

A leaf is found by the trie, or by its owner word, so that entries survive a broken node. An entry
is kept if its name hashes to its cookie, or stands in a leaf that makes sense otherwise, and if
the inode that it names exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pmemfs.fsck.directories import MAX_BITS, NODE_BITS
from pmemfs.fsck.draft import Risk
from pmemfs.fsck.inodes import DIRECTORY
from pmemfs.fsck.leaves import NUMBER_MASK, Entry, Leaf, name_hash
from pmemfs.fsck.mend.mending import Belongings, Mending
from pmemfs.fsck.mend.trie import build_directory
from pmemfs.layout.geometry import (
    NAME_MAX,
    PAGE_BYTES,
    ROOT_INO,
    extent_to_pfn,
    pfn_to_extent,
    pfn_to_offset,
    pfn_to_slot,
)
from pmemfs.layout.records import DIRECTORY_LEAF, DIRECTORY_SLOT, MAP_WORDS, Kind, MapKind, Role
from pmemfs.layout.words import NODE, PFN_MASK, owner_index, owner_ino, owner_word

DIRECTORY_CHECKS = (
    "dir-leaf",
    "dir-name",
    "dir-cookie",
    "dir-duplicate",
    "dir-place",
    "dir-node",
    "dir-entries",
    "dir-target",
    "dir-type",
    "dir-twice",
)
_MAP_CHECKS = ("map-word", "map-range", "map-extent", "map-owner", "page-twice")
_MAX_SLOTS = (PAGE_BYTES - DIRECTORY_LEAF.size_bytes) // DIRECTORY_SLOT.size_bytes


@dataclass
class Gathered:
    """The entries of a directory that can be kept, how many cannot, and its pages."""

    entries: list[Entry] = field(default_factory=list)
    lost: int = 0
    pages: list[int] = field(default_factory=list)


def mend_directories(m: Mending) -> None:
    """Rebuild every directory with a finding, and those with leaves that no node leads to."""
    inos = set(m.subjects(*DIRECTORY_CHECKS))
    inos |= {ino for ino in m.subjects(*_MAP_CHECKS) if m.type_of(ino) == DIRECTORY}
    inos |= set(_iter_owners_of_lost_leaves(m))
    belongings = m.belongings(inos)
    gathered = {
        ino: gather(m, ino, belongings[ino]) for ino in sorted(inos) if m.type_of(ino) == DIRECTORY
    }
    for ino, found in gathered.items():
        checks = {check for check in m.report.subjects if ino in m.report.subjects[check]}
        if checks == {"dir-entries"} and found.entries and not found.lost:
            _mend_count(m, ino, len(found.entries))
        else:
            rebuild(m, ino, found)


def _mend_count(m: Mending, ino: int, entries: int) -> None:
    """Count the entries anew; a directory that was removed with entries in it comes back."""
    fields = {"entries": entries}
    if entries and not m.record(ino)["nlink"]:
        fields["nlink"] = 2
    if m.draft.begin("dir-entries", f"count {entries} entries in directory {ino}"):
        m.draft.patch_inode(m.offset(ino), **fields)


def _iter_owners_of_lost_leaves(m: Mending) -> Iterator[int]:
    for pfn in m.subjects("owner-unmapped"):
        if pfn_to_slot(pfn) and m.extents.kind[pfn_to_extent(pfn)] == Kind.METADATA:
            word = m.owners.word_at(pfn)
            ino = owner_ino(word)
            is_leaf = owner_index(word) == Role.DIRECTORY_LEAF and m.type_of(ino) == DIRECTORY
            if is_leaf and Leaf(ino, pfn, _page(m, pfn)).ino == ino:
                yield ino


def rebuild(m: Mending, ino: int, gathered: Gathered) -> None:
    """Propose to build a directory anew with these entries."""
    n = len(gathered.entries)
    risk = Risk.LOSES if gathered.lost else Risk.SAFE
    sentence = f"build directory {ino} anew with {n} entries"
    sentence += f"; {gathered.lost} cannot be kept" if gathered.lost else ""
    check = next((c for c in DIRECTORY_CHECKS if ino in m.report.subjects.get(c, ())), "dir-node")
    if m.draft.begin(check, sentence, risk):
        store_entries(m, ino, gathered)


def store_entries(m: Mending, ino: int, gathered: Gathered) -> None:
    """Build a directory anew, as part of the repair that has begun."""
    reuse = list(gathered.pages)
    kept = set(reuse)

    def store_page(role: Role, page: bytes) -> int:
        pfn = m.new_page(Kind.METADATA, owner_word(ino, role), page, reuse)
        kept.discard(pfn)
        return pfn

    word = build_directory(ino, gathered.entries, store_page)
    m.draft.patch_inode(
        m.offset(ino),
        map_kind=MapKind.DIRECTORY,
        map_height=0,
        map=(word,) + (0,) * (MAP_WORDS - 1),
        entries=len(gathered.entries),
    )
    for pfn in sorted(kept):
        m.free_page(pfn)


def types_by_name(m: Mending, inos: set[int]) -> dict[int, int]:
    """Return the type that names say of inodes, from all leaves there are."""
    types: dict[int, int] = {}
    first, size = DIRECTORY_LEAF.size_bytes, _MAX_SLOTS * DIRECTORY_SLOT.size_bytes
    wanted = np.array(sorted(inos), np.uint32)
    for extents, words, _ in m.owners.batches():
        leaves = words >> np.uint64(32) == Role.DIRECTORY_LEAF
        leaves &= (m.extents.kind[extents] == Kind.METADATA)[:, None]
        for row, place in np.argwhere(leaves).tolist():
            page = _page(m, extent_to_pfn(int(extents[row])) + place)
            slots = np.frombuffer(page[first : first + size], DIRECTORY_SLOT.dtype)
            named = slots[(slots["cookie"] != 0) & np.isin(slots["ino"], wanted)]
            types |= dict(zip(named["ino"].tolist(), named["type"].tolist()))
    return types


# -- gathering -----------------------------------------------------------------------------------


def gather(m: Mending, ino: int, mine: Belongings) -> Gathered:
    """Return what can be kept of a directory; children named twice stay where they were first."""
    found = Gathered()
    names: dict[bytes, int] = {}
    children: set[int] = set()
    found.pages = [
        pfn
        for role in (Role.DIRECTORY_LEAF, Role.DIRECTORY_NODE)
        for pfn in mine.pages.get(role, [])
    ]
    for pfn in _leaves(m, ino, mine):
        entries, lost = _readable(m, Leaf(ino, pfn, _page(m, pfn)))
        found.lost += lost
        for entry in entries:
            _keep(m, ino, entry, found, names, children)
    _number_cookies(found.entries)
    return found


def _page(m: Mending, pfn: int) -> bytes:
    start = pfn_to_offset(pfn)
    return bytes(m.image.device.view[start : start + PAGE_BYTES])


def _leaves(m: Mending, ino: int, mine: Belongings) -> list[int]:
    """Return the leaves of a directory: first those that the trie leads to."""
    owned = mine.pages.get(Role.DIRECTORY_LEAF, [])
    nodes = set(mine.pages.get(Role.DIRECTORY_NODE, []))
    reached: dict[int, None] = {}
    seen: set[int] = set()
    todo = [(m.record(ino)["map"][0], 0)]
    while todo:
        word, bits = todo.pop()
        pfn = word & PFN_MASK
        if word == pfn | NODE and bits <= MAX_BITS and pfn not in seen:
            seen.add(pfn)
            if pfn not in nodes and not _could_be_node(m, pfn):
                continue
            words = np.unique(np.frombuffer(_page(m, pfn), "<u8"))
            todo += [(int(word), bits + NODE_BITS) for word in words if word]
        elif word == pfn and word and _could_be_leaf(m, ino, pfn):
            reached[pfn] = None
    m.wanted.update(reached, seen)
    return list(reached | dict.fromkeys(owned))


def _could_be_node(m: Mending, pfn: int) -> bool:
    """Tell whether a page that is nobody's is a node, by its words."""
    if not 0 < pfn < m.image.geometry.n_pages or not pfn_to_slot(pfn):
        return False
    if m.extents.kind[pfn_to_extent(pfn)] != Kind.METADATA or m.owners.is_claimed(pfn):
        return False
    words = np.frombuffer(_page(m, pfn), "<u8")
    below = words & np.uint64(PFN_MASK)
    return bool((words & ~np.uint64(PFN_MASK | NODE) == 0).all() and (below > 0).all())


def _could_be_leaf(m: Mending, ino: int, pfn: int) -> bool:
    """Tell whether a page is a leaf of this directory, by its owner or by its header."""
    if not 0 < pfn < m.image.geometry.n_pages or not pfn_to_slot(pfn):
        return False
    if m.extents.kind[pfn_to_extent(pfn)] != Kind.METADATA:
        return False
    if m.owners.word_at(pfn) == owner_word(ino, Role.DIRECTORY_LEAF):
        return True
    return not m.owners.is_claimed(pfn) and Leaf(ino, pfn, _page(m, pfn)).ino == ino


def _readable(m: Mending, leaf: Leaf) -> tuple[list[Entry], int]:
    """Return the entries of a leaf that can be read, and how many cannot."""
    seed = m.image.superblock["hash_seed"]
    entries, lost = [], 0
    usable = leaf.is_usable and leaf.ino == leaf.directory
    for number in range(_MAX_SLOTS):
        start = DIRECTORY_LEAF.size_bytes + number * DIRECTORY_SLOT.size_bytes
        slot = DIRECTORY_SLOT.unpack(leaf.page, start)
        begin, end = slot["name_offset"], slot["name_offset"] + slot["name_bytes"]
        within = slot["name_bytes"] > 0 and start < begin and end <= PAGE_BYTES
        name = leaf.page[begin:end] if within else b""
        entry = Entry(slot["cookie"], slot["ino"], slot["type"], name, leaf.offset + start)
        hashes = name_hash(name, seed) == entry.cookie & ~NUMBER_MASK if name else False
        counted = usable and start < leaf.slots_end and entry.cookie != 0
        if entry.cookie and (hashes or (counted and name)):
            entries.append(entry)
        elif counted:
            lost += 1
    return entries, lost


def _keep(
    m: Mending, ino: int, entry: Entry, found: Gathered, names: dict[bytes, int], children: set[int]
) -> None:
    """Add an entry to those found, or count it as lost; a name that is taken gets a number."""
    kind = m.type_of(entry.ino)
    name = entry.name.replace(b"/", b".").replace(b"\0", b".")
    if names.get(name) == entry.ino:
        return
    if not kind or name in (b".", b".."):
        found.lost += 1
        return
    if kind == DIRECTORY:
        home = int(m.inodes.parent[m.inodes.slot(entry.ino)])
        if entry.ino in (ROOT_INO, *children) or home not in (0, ino):
            found.lost += 1
            return
        children.add(entry.ino)
    name = free_name(name, names)
    names[name] = entry.ino
    cookie = name_hash(name, m.image.superblock["hash_seed"])
    if cookie == entry.cookie & ~NUMBER_MASK:
        cookie = entry.cookie
    found.entries.append(Entry(cookie, entry.ino, kind, name, entry.offset))


def free_name(name: bytes, names: dict[bytes, int]) -> bytes:
    """Return the name, with a number behind it if there is one like it."""
    free, number = name, 0
    while free in names:
        number += 1
        suffix = b"~%d" % number
        free = name[: NAME_MAX - len(suffix)] + suffix
    return free


def _number_cookies(entries: list[Entry]) -> None:
    """Give entries of equal cookies different numbers."""
    taken: set[int] = set()
    for place, entry in enumerate(entries):
        cookie = entry.cookie
        for _ in range(NUMBER_MASK):
            if cookie in taken:
                cookie = cookie & ~NUMBER_MASK | (cookie + 1) & NUMBER_MASK
        taken.add(cookie)
        entries[place] = entry._replace(cookie=cookie)
