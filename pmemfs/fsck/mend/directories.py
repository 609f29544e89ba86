"""Mend directories: rewrite leaves in their places where that is enough, else build all anew.

A directory that is built anew takes free pages, and one transaction switches to them.
"""

from __future__ import annotations

from collections.abc import Iterator

from pmemfs.fsck.draft import Risk
from pmemfs.fsck.inodes import DIRECTORY
from pmemfs.fsck.leaves import Entry, Leaf, shared_bits
from pmemfs.fsck.mend.entries import Gathered, gather
from pmemfs.fsck.mend.filemap import MAP_CHECKS
from pmemfs.fsck.mend.mending import Mending
from pmemfs.fsck.mend.trie import build_directory, fits, pack_leaf
from pmemfs.layout.geometry import offset_to_pfn, pfn_to_extent, pfn_to_offset, pfn_to_slot
from pmemfs.layout.records import MAP_WORDS, Kind, MapKind, Role
from pmemfs.layout.words import owner_index, owner_ino, owner_word
from pmemfs.units import count

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
_IN_PLACE = set(DIRECTORY_CHECKS) - {"dir-node", "dir-place"}


def mend_directories(m: Mending) -> None:
    """Rebuild every directory with a finding, and those with leaves that no node leads to."""
    inos = set(m.subjects(*DIRECTORY_CHECKS))
    inos |= {ino for ino in m.subjects(*MAP_CHECKS) if m.type_of(ino) == DIRECTORY}
    inos |= set(_iter_owners_of_lost_leaves(m))
    belongings = m.belongings(inos)
    gathered = {
        ino: gather(m, ino, belongings[ino]) for ino in sorted(inos) if m.type_of(ino) == DIRECTORY
    }
    for ino, found in gathered.items():
        checks = m.checks_of(ino)
        counted = found.entries and not found.lost and not found.strays
        if checks == {"dir-entries"} and counted:
            _mend_count(m, ino, len(found.entries))
        else:
            rebuild(m, ino, found)


def _mend_count(m: Mending, ino: int, entries: int) -> None:
    """Count the entries anew; a directory that was removed with entries in it comes back."""
    fields = {"entries": entries}
    if entries and not m.record(ino)["nlink"]:
        fields["nlink"] = 2
    if m.draft.begin(
        "dir-entries", f"count {count(entries, 'entry', 'entries')} in directory {ino}"
    ):
        m.draft.patch_inode(m.offset(ino), **fields)


def _iter_owners_of_lost_leaves(m: Mending) -> Iterator[int]:
    for pfn in m.subjects("owner-unmapped"):
        if pfn_to_slot(pfn) and m.extents.kind[pfn_to_extent(pfn)] == Kind.METADATA:
            word = m.owners.word_at(pfn)
            ino = owner_ino(word)
            is_leaf = owner_index(word) == Role.DIRECTORY_LEAF and m.type_of(ino) == DIRECTORY
            if is_leaf and Leaf(ino, pfn, bytes(m.read_page(pfn))).ino == ino:
                yield ino


def rebuild(m: Mending, ino: int, gathered: Gathered) -> None:
    """Propose to build a directory anew with these entries."""
    n = len(gathered.entries)
    risk = Risk.LOSES if gathered.lost else Risk.SAFE
    sentence = f"build directory {ino} anew with {count(n, 'entry', 'entries')}"
    sentence += f"; {gathered.lost} cannot be kept" if gathered.lost else ""
    check = next((c for c in DIRECTORY_CHECKS if m.is_found(c, ino)), "dir-node")
    if not m.draft.begin(check, sentence, risk):
        return
    leaves = _leaves_in_place(m, ino, gathered)
    if leaves is None:
        return store_entries(m, ino, gathered)
    for pfn, page in leaves.items():
        m.draft.put(pfn_to_offset(pfn), page)
    m.draft.patch_inode(m.offset(ino), entries=n)


def _leaves_in_place(m: Mending, ino: int, gathered: Gathered) -> dict[int, bytes] | None:
    """Return what damaged leaves should be, if no entry must leave its own and none is empty."""
    checks = m.checks_of(ino)
    if not gathered.entries or gathered.strays or not checks <= _IN_PLACE:
        return None
    by_leaf: dict[int, list[Entry]] = {}
    for entry in gathered.entries:
        by_leaf.setdefault(offset_to_pfn(entry.offset), []).append(entry)
    better: dict[int, bytes] = {}
    for pfn in gathered.leaves:
        leaf, entries = Leaf(ino, pfn, bytes(m.read_page(pfn))), by_leaf.get(pfn, [])
        if not leaf.is_usable or not leaf.has_own_prefix:
            return None
        if not fits(entries) or (leaf.live and not entries):
            return None
        if any(shared_bits(entry.cookie, leaf.depth) != leaf.prefix for entry in entries):
            return None
        findings = list(leaf.check(m.image.superblock["hash_seed"]))
        if findings or leaf.entries != entries:
            better[pfn] = pack_leaf(ino, leaf.depth, leaf.prefix, entries)
    return better


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
