"""Mend what inodes say of themselves; make anew what is lost but still has pages.

An inode whose checksum is wrong and whose fields are all possible is kept as it is, when that is
allowed: what its map says is checked next. One with impossible fields is made anew, as a file or
directory, if owner words give it pages: the map is then rebuilt from these. What is left is
cleared.
"""

from __future__ import annotations

import stat
from typing import Any

from pmemfs.fsck.draft import Risk
from pmemfs.fsck.fields import KNOWN_FLAGS
from pmemfs.fsck.inodes import BLOCK, CHARACTER, DIRECTORY, REGULAR, SYMLINK, TYPES
from pmemfs.fsck.mend.entries import types_by_name
from pmemfs.fsck.mend.mending import Belongings, Mending
from pmemfs.layout.geometry import (
    MAX_DEVICE_NUMBER,
    MAX_FILE_BYTES,
    PAGE_BYTES,
    PAGES_PER_EXTENT,
    ROOT_INO,
    SYMLINK_MAX,
    pfn_to_offset,
)
from pmemfs.layout.records import (
    DIRECTORY_LEAF,
    INLINE_BYTES,
    MAP_WORDS,
    MAX_SEQUENCE,
    InodeFlag,
    MapKind,
    Role,
)
from pmemfs.units import count

_NO_MAP = (0,) * MAP_WORDS


def mend_inodes(m: Mending) -> None:
    """Mend every inode that a check of single inodes has found."""
    checks = ("inode-checksum", "inode-type", "inode-map-kind", "inode-size", "inode-fields")
    if _raise_sequence(m):
        return
    inos = m.subjects(*checks)
    belongings = m.belongings(inos)
    wrong = set(m.subjects("inode-checksum"))
    impossible = set(m.subjects("inode-type", "inode-map-kind", "inode-size", "inode-fields"))
    freed = {ino for ino in inos if not m.record(ino)["mode"]}
    _clear_freed(m, [ino for ino in sorted(freed) if not make_anew(m, ino, belongings[ino])])
    types = types_by_name(m, set(inos) - freed) if wrong or impossible else {}
    for ino in inos:
        if ino in freed:
            continue
        if ino in wrong and ino not in impossible:
            sentence = f"keep inode {ino} as it is, though its checksum says that it has changed"
            if m.draft.begin("inode-checksum", sentence, Risk.LOSES):
                m.draft.patch_inode(m.offset(ino))
                m.draft.doubtful.add(ino)
        elif ino in wrong or m.record(ino)["mode"] >> 12 not in TYPES:
            _renew(m, ino, belongings[ino], types.get(ino, 0))
        else:
            _mend_fields(m, ino, belongings[ino])


def _raise_sequence(m: Mending) -> bool:
    """Count as many transactions as made the newest inode: its sum is right, and it has one."""
    wrong = set(m.subjects("inode-checksum"))
    sound = [m.record(ino) for ino in m.subjects("inode-fields") if ino not in wrong]
    newest = max((record["generation"] for record in sound if record["mode"]), default=0)
    newest = newest if newest <= MAX_SEQUENCE else 0
    if newest <= m.draft.sequence:
        return False
    if m.draft.begin("inode-fields", f"count {newest} transactions, as the newest inode says"):
        m.draft.set_sequence(newest)
    return True


def _clear_freed(m: Mending, inos: list[int]) -> None:
    """Clear freed inodes; their places in the free chain stay."""
    check = "inode-checksum" if "inode-checksum" in m.report.counts else "inode-fields"
    if inos and m.draft.begin(check, f"clear {count(len(inos), 'freed inode', 'freed inodes')}"):
        for ino in inos:
            m.draft.put_inode(m.offset(ino), next=m.record(ino)["next"])


def _renew(m: Mending, ino: int, mine: Belongings, kind: int) -> None:
    """Mend an inode that makes no sense; ``kind`` is the type that its name says, or 0."""
    check = "inode-checksum" if m.is_found("inode-checksum", ino) else "inode-type"
    if check == "inode-type" and kind in TYPES:
        mode = m.record(ino)["mode"] & 0o7777 | kind << 12
        if m.draft.begin(check, f"give inode {ino} the type that its name says"):
            m.draft.patch_inode(m.offset(ino), mode=mode)
        return
    if make_anew(m, ino, mine):
        return
    if m.draft.begin(check, f"clear inode {ino}, which makes no sense", Risk.LOSES):
        m.draft.put_inode(m.offset(ino))


def make_anew(m: Mending, ino: int, mine: Belongings, check: str = "inode-checksum") -> bool:
    """Make an inode of the type that its pages show, without a map; False if it has none.

    The count of pages vouches for what owner words give it, so that its map is rebuilt next.
    """
    pages = len(mine.small) + PAGES_PER_EXTENT * len(mine.whole)
    stamps = dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns", "btime_ns"), m.now_ns)
    generation = m.draft.sequence
    if _has_leaf(m, ino, mine):
        what, fields = "directory", {"mode": stat.S_IFDIR | 0o700, "parent": ROOT_INO}
        fields |= {"nlink": 2, "map_kind": int(MapKind.DIRECTORY)}
    elif pages:
        what, fields = "file", {"mode": stat.S_IFREG | 0o600, "nlink": 1, "pages": pages}
        fields["size"] = _end_of(mine)
    else:
        return False
    sentence = f"make the damaged inode {ino} anew as a {what}, from the pages that name it"
    if m.draft.begin(check, sentence, Risk.LOSES):
        m.draft.put_inode(m.offset(ino), generation=generation, **fields, **stamps)
    return True


def _has_leaf(m: Mending, ino: int, mine: Belongings) -> bool:
    for pfn in mine.pages.get(Role.DIRECTORY_LEAF, []):
        leaf = DIRECTORY_LEAF.unpack(m.image.device.view, pfn_to_offset(pfn))
        if leaf["ino"] == ino:
            return True
    return False


def _end_of(mine: Belongings) -> int:
    """Return the size in bytes of a file that ends with its last page."""
    ends = [index + 1 for index in mine.small]
    ends += [(piece + 1) * PAGES_PER_EXTENT for piece in mine.whole]
    return min(max(ends, default=0) * PAGE_BYTES, MAX_FILE_BYTES)


def _mend_fields(m: Mending, ino: int, mine: Belongings) -> None:
    """Mend an inode of a known type whose checksum is right."""
    record = m.record(ino)
    kind = record["mode"] >> 12
    if m.is_found("inode-map-kind", ino):
        _mend_map_kind(m, ino, kind, record)
    if m.is_found("inode-size", ino):
        _mend_size(m, ino, kind, mine)
    if m.is_found("inode-fields", ino):
        sentence = f"clear what inode {ino} has set and does not use"
        if m.draft.begin("inode-fields", sentence):
            _clear_strays(m, ino, kind)


def _mend_map_kind(m: Mending, ino: int, kind: int, record: dict[str, Any]) -> None:
    if kind == SYMLINK:
        return _mend_symlink_kind(m, ino, record)
    fields: dict[str, Any] = {"map_kind": MapKind.RUNS, "map_height": 0}
    if kind == DIRECTORY:
        fields["map_kind"] = MapKind.DIRECTORY
    elif kind != REGULAR or record["map_kind"] != MapKind.RUNS:
        fields["map"] = _NO_MAP  # the map of a file is rebuilt from the owner words
    if m.draft.begin("inode-map-kind", f"give inode {ino} the kind of map of its type"):
        m.draft.patch_inode(m.offset(ino), **fields)


def _mend_symlink_kind(m: Mending, ino: int, record: dict[str, Any]) -> None:
    fits = record["map_kind"] == MapKind.INLINE or record["size"] <= INLINE_BYTES
    if fits and m.draft.begin("inode-map-kind", f"read the target of symlink {ino} inline"):
        size = min(record["size"], INLINE_BYTES)
        m.draft.patch_inode(m.offset(ino), map_kind=MapKind.INLINE, map_height=0, size=size)
    elif not fits and m.draft.begin(
        "inode-map-kind", f"read the target of symlink {ino} in a page"
    ):
        m.draft.patch_inode(m.offset(ino), map_kind=MapKind.RUNS, map_height=0)


def _mend_size(m: Mending, ino: int, kind: int, mine: Belongings) -> None:
    risk, size = Risk.SAFE, 0
    if kind == REGULAR:
        risk, size = Risk.LOSES, _end_of(mine)
    elif kind == SYMLINK:
        risk, size = Risk.LOSES, SYMLINK_MAX
        if m.record(ino)["map_kind"] == MapKind.INLINE:
            size = INLINE_BYTES  # what is shorter is found by the check of the target
    if m.draft.begin("inode-size", f"set the impossible size of inode {ino} to {size}", risk):
        m.draft.patch_inode(m.offset(ino), size=size)


def _clear_strays(m: Mending, ino: int, kind: int) -> None:
    record = m.record(ino)
    fields: dict[str, Any] = {"reserved0": 0, "reserved1": 0}
    fields["mode"] = record["mode"] & 0xFFFF
    fields["flags"] = record["flags"] & KNOWN_FLAGS
    if kind != REGULAR:
        fields["flags"] &= ~InodeFlag.PREALLOCATED
    fields["rdev"] = record["rdev"] & MAX_DEVICE_NUMBER if kind in (CHARACTER, BLOCK) else 0
    if kind != DIRECTORY:
        fields |= {"entries": 0, "parent": 0}
    if record["generation"] > m.draft.sequence:
        fields["generation"] = m.draft.sequence
    if record["next"] and record["nlink"] and not m.inodes.listed[m.inodes.slot(ino)]:
        fields["next"] = 0
    m.draft.patch_inode(m.offset(ino), **fields)


def mend_root(m: Mending) -> None:
    """Make inode 1 a directory; leaves that name it give it its entries back."""
    if m.inodes.chunk_of(ROOT_INO) is None:
        m.draft.block("the extent of the first inodes is lost, and with it the root")
        return
    if not m.draft.begin("root-missing", "make the root directory anew", Risk.LOSES):
        return
    head = m.draft.head(m.image.geometry.first_inode_extent)
    m.draft.patch_head(
        m.image.geometry.first_inode_extent, frontier=max(head["frontier"], ROOT_INO + 1)
    )
    stamps = dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns", "btime_ns"), m.now_ns)
    m.draft.put_inode(
        m.offset(ROOT_INO),
        mode=stat.S_IFDIR | 0o755,
        nlink=2,
        parent=ROOT_INO,
        map_kind=MapKind.DIRECTORY,
        generation=m.draft.sequence,
        **stamps,
    )
