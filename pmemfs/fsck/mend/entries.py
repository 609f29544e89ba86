"""Gather the entries of a directory from every leaf that is its own, whatever leads to it.

A leaf is found by the trie, or by its owner word, so that entries survive a broken node. An entry
is kept if its name hashes to its cookie, or stands in a leaf that makes sense otherwise, and if
the inode that it names exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pmemfs.fsck.directories import MAX_BITS, NODE_BITS
from pmemfs.fsck.inodes import DIRECTORY
from pmemfs.fsck.leaves import NUMBER_MASK, Entry, Leaf, name_hash
from pmemfs.fsck.mend.mending import Belongings, Mending
from pmemfs.layout.geometry import (
    NAME_MAX,
    PAGE_BYTES,
    ROOT_INO,
    extent_to_pfn,
    pfn_to_extent,
    pfn_to_slot,
)
from pmemfs.layout.records import DIRECTORY_LEAF, DIRECTORY_SLOT, Kind, Role
from pmemfs.layout.words import NODE, PFN_MASK, owner_word

_MAX_SLOTS = (PAGE_BYTES - DIRECTORY_LEAF.size_bytes) // DIRECTORY_SLOT.size_bytes


@dataclass
class Gathered:
    """The entries of a directory that can be kept, how many cannot, its leaves, its pages.

    ``strays`` tells whether the trie does not lead to all of its leaves.
    """

    entries: list[Entry] = field(default_factory=list)
    lost: int = 0
    leaves: list[int] = field(default_factory=list)
    strays: bool = False
    pages: list[int] = field(default_factory=list)


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
    reached, owned = _leaves(m, ino, mine), mine.pages.get(Role.DIRECTORY_LEAF, [])
    found.leaves = list(reached | dict.fromkeys(owned))
    found.strays = len(found.leaves) > len(reached)
    for pfn in found.leaves:
        entries, lost = _readable(m, Leaf(ino, pfn, bytes(m.read_page(pfn))))
        found.lost += lost
        for entry in entries:
            _keep(m, ino, entry, found, names, children)
    _number_cookies(found.entries)
    return found


def _leaves(m: Mending, ino: int, mine: Belongings) -> dict[int, None]:
    """Return the leaves of a directory that the trie leads to."""
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
            words = np.unique(np.frombuffer(bytes(m.read_page(pfn)), "<u8"))
            todo += [(int(word), bits + NODE_BITS) for word in words if word]
        elif word == pfn and word and _could_be_leaf(m, ino, pfn):
            reached[pfn] = None
    m.wanted.update(reached, seen)
    return reached


def _could_be_node(m: Mending, pfn: int) -> bool:
    """Tell whether a page that is nobody's is a node, by its words."""
    if not 0 < pfn < m.image.geometry.n_pages or not pfn_to_slot(pfn):
        return False
    if m.extents.kind[pfn_to_extent(pfn)] != Kind.METADATA or m.owners.is_claimed(pfn):
        return False
    words = np.frombuffer(bytes(m.read_page(pfn)), "<u8")
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
    return not m.owners.is_claimed(pfn) and Leaf(ino, pfn, bytes(m.read_page(pfn))).ino == ino


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


def types_by_name(m: Mending, inos: set[int]) -> dict[int, int]:
    """Return the type that names say of inodes, from all leaves there are."""
    types: dict[int, int] = {}
    first, size = DIRECTORY_LEAF.size_bytes, _MAX_SLOTS * DIRECTORY_SLOT.size_bytes
    wanted = np.array(sorted(inos), np.uint32)
    for extents, words, _ in m.owners.batches():
        leaves = words >> np.uint64(32) == Role.DIRECTORY_LEAF
        leaves &= (m.extents.kind[extents] == Kind.METADATA)[:, None]
        for row, place in np.argwhere(leaves).tolist():
            page = bytes(m.read_page(extent_to_pfn(int(extents[row])) + place))
            slots = np.frombuffer(page[first : first + size], DIRECTORY_SLOT.dtype)
            named = slots[(slots["cookie"] != 0) & np.isin(slots["ino"], wanted)]
            types |= dict(zip(named["ino"].tolist(), named["type"].tolist()))
    return types
