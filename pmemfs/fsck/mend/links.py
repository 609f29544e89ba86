"""Mend counts of names, parents, the orphan list; give what has no name one in ``lost+found``.

A file without names that still has a link count, and a directory that nothing names, gets the
name ``#INO`` in ``lost+found``. One without names and links was removed while it was in use: it
goes on the orphan list, and the next mount frees it.
"""

from __future__ import annotations

import stat

import numpy as np

from pmemfs.fsck.inodes import DIRECTORY, REGULAR
from pmemfs.fsck.leaves import Entry, name_hash
from pmemfs.fsck.mend import entries
from pmemfs.fsck.mend.directories import store_entries
from pmemfs.fsck.mend.mending import Mending, NoPageError
from pmemfs.layout.geometry import CONTROL_OFFSET, INODES_PER_EXTENT, ROOT_INO, inode_offset
from pmemfs.layout.records import CONTROL, INODE, Kind, MapKind
from pmemfs.layout.words import INO_MASK
from pmemfs.units import count

LOST_AND_FOUND = b"lost+found"
_ORPHAN_FIRST = CONTROL_OFFSET + CONTROL.offset_of["orphan_first"]


# -- counts --------------------------------------------------------------------------------------


def mend_links(m: Mending) -> None:
    """Set link counts and parents to what the directories say."""
    for ino in m.subjects("link-count"):
        links = int(m.inodes.links[m.inodes.slot(ino)])
        if m.draft.begin("link-count", f"count {count(links, 'name', 'names')} of inode {ino}"):
            m.draft.patch_inode(m.offset(ino), nlink=links)
    directories_of = m.inodes.parent[m.inodes.type == DIRECTORY]
    children = np.unique(directories_of, return_counts=True)
    children_of = dict(zip(children[0].tolist(), children[1].tolist()))
    for ino in m.subjects("dir-nlink"):
        nlink = 2 + children_of.get(ino, 0)
        if m.draft.begin("dir-nlink", f"count {nlink} links of directory {ino}"):
            m.draft.patch_inode(m.offset(ino), nlink=nlink)
    for ino in m.subjects("dir-parent"):
        parent = ROOT_INO if ino == ROOT_INO else int(m.inodes.parent[m.inodes.slot(ino)])
        if m.draft.begin("dir-parent", f"make directory {parent} the parent of directory {ino}"):
            m.draft.patch_inode(m.offset(ino), parent=parent)


# -- the orphan list -----------------------------------------------------------------------------


def mend_orphans(m: Mending) -> None:
    """Rebuild the orphan list from what of it can stand there."""
    if not m.draft.begin("orphan-list", "chain the orphan list anew"):
        return
    listed = [m.inodes.ino(slot) for slot in np.flatnonzero(m.inodes.listed).tolist()]
    following = 0
    for ino in reversed(listed):
        record = m.record(ino)
        if record["nlink"] and m.type_of(ino) != REGULAR:
            m.draft.patch_inode(m.offset(ino), next=0)
            continue
        m.draft.patch_inode(m.offset(ino), next=following)
        following = ino
    m.draft.put(_ORPHAN_FIRST, following.to_bytes(8, "little"))


def put_on_orphan_list(m: Mending, ino: int) -> None:
    """Put an inode first on the orphan list, as part of the repair that has begun."""
    first = m.image.control()["orphan_first"]
    m.draft.patch_inode(m.offset(ino), next=first & INO_MASK)
    m.draft.put(_ORPHAN_FIRST, ino.to_bytes(8, "little"))


# -- lost and found ------------------------------------------------------------------------------


def mend_unreachable(m: Mending) -> None:
    """Give what cannot be reached a name, or put it on the orphan list."""
    nameless = []
    for ino in m.subjects("inode-unreachable"):
        slot = m.inodes.slot(ino)
        kind, record = m.type_of(ino), m.record(ino)
        if ino == ROOT_INO or (kind == DIRECTORY and m.inodes.parent[slot]):
            continue
        kept = record["nlink"] or ino in m.draft.doubtful
        if kept or (kind == DIRECTORY and record["entries"]):
            nameless.append(ino)
        elif m.draft.begin("inode-unreachable", f"put inode {ino} on the orphan list"):
            put_on_orphan_list(m, ino)
    if nameless:
        _connect(m, nameless)
    else:
        _break_cycles(m)


def _connect(m: Mending, inos: list[int]) -> None:
    """Name inodes in ``lost+found``, all in one repair."""
    n = f"{len(inos)} inodes" if len(inos) > 1 else f"inode {inos[0]}"
    if not m.draft.begin("inode-unreachable", f"give {n} a name in lost+found"):
        return
    home = _lost_and_found(m)
    gathered = entries.gather(m, home, m.belongings([home])[home])
    names = {entry.name: entry.ino for entry in gathered.entries}
    seed = m.image.superblock["hash_seed"]
    for ino in inos:
        name = entries.free_name(b"#%d" % ino, names)
        names[name] = ino
        cookie = name_hash(name, seed)
        gathered.entries.append(Entry(cookie, ino, m.type_of(ino), name, 0))
    store_entries(m, home, gathered)


def _lost_and_found(m: Mending) -> int:
    """Return the inode of ``lost+found`` in the root, which is made if it is not there."""
    gathered = entries.gather(m, ROOT_INO, m.belongings([ROOT_INO])[ROOT_INO])
    names = {entry.name: entry for entry in gathered.entries}
    there = names.get(LOST_AND_FOUND)
    if there is not None and there.type == DIRECTORY:
        return there.ino
    ino, offset = _new_inode(m)
    stamps = dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns", "btime_ns"), m.now_ns)
    m.draft.put_inode(
        offset,
        mode=stat.S_IFDIR | 0o700,
        nlink=2,
        parent=ROOT_INO,
        map_kind=MapKind.DIRECTORY,
        generation=m.draft.sequence,
        **stamps,
    )
    taken = {entry.name: entry.ino for entry in gathered.entries}
    name = entries.free_name(LOST_AND_FOUND, taken)
    cookie = name_hash(name, m.image.superblock["hash_seed"])
    gathered.entries.append(Entry(cookie, ino, DIRECTORY, name, 0))
    store_entries(m, ROOT_INO, gathered)
    m.draft.patch_inode(m.offset(ROOT_INO), nlink=m.record(ROOT_INO)["nlink"] + 1)
    return ino


def _new_inode(m: Mending) -> tuple[int, int]:
    """Take a free inode out of a chunk that has one; return its number and offset."""
    for chunk in m.inodes.chunks:
        head = m.draft.head(chunk.extent)
        if head["free_first"]:
            ino = head["free_first"]
            offset = inode_offset(chunk.extent, ino)
            following = INODE.unpack(m.image.device.view, offset)["next"]
            m.draft.patch_head(chunk.extent, used=head["used"] + 1, free_first=following)
            return ino, offset
        if head["frontier"] < INODES_PER_EXTENT:
            ino = chunk.first_ino + head["frontier"]
            fields = {"used": head["used"] + 1, "frontier": head["frontier"] + 1}
            m.draft.patch_head(chunk.extent, **fields)
            return ino, inode_offset(chunk.extent, ino)
    extent = next(m.free_extents(empty=True), None)
    if extent is None:
        raise NoPageError
    taken = {chunk.index for chunk in m.inodes.chunks}
    index = next(number for number in range(len(taken) + 1) if number not in taken)
    m.draft.put_head(extent, Kind.INODES, used=1, index=index, frontier=1)
    return index * INODES_PER_EXTENT, inode_offset(extent, 0)


def _break_cycles(m: Mending) -> None:
    """Take directories that lead to themselves out of the directory that names them."""
    for start in m.subjects("inode-unreachable"):
        seen: set[int] = set()
        ino = start
        while ino and ino not in seen:
            seen.add(ino)
            ino = int(m.inodes.parent[m.inodes.slot(ino)])
        if not ino:
            continue
        home = int(m.inodes.parent[m.inodes.slot(ino)])
        gathered = entries.gather(m, home, m.belongings([home])[home])
        gathered.entries = [entry for entry in gathered.entries if entry.ino != ino]
        sentence = f"take the name of directory {ino} out of directory {home}, which it leads to"
        if m.draft.begin("inode-unreachable", sentence):
            store_entries(m, home, gathered)
        return
