"""Mend the maps of files: give each page to one owner, and rebuild maps from owner words.

The map and the owner words of a file say the same thing twice, so one restores the other. In
this order, for each file whose map and owner words disagree:

1. a page that only its map has becomes its page: the owner word was damaged. But a map that has
   more pages than the inode counts is not believed, only the owner words are;
2. a page that another map has, too, belongs to that one if the owner word says so, else to the
   first; this file gets a copy, or a hole where there is no space;
3. pages that only owner words give to it are put back, if the map is broken or counts fewer
   pages than the inode; else they are freed later;
4. a map that could not be read whole, or has changed, is built anew.
"""

from __future__ import annotations

from pmemfs.fsck.draft import Risk
from pmemfs.fsck.inodes import REGULAR, SYMLINK
from pmemfs.fsck.mend.attributes import mend_symlink, mend_xattr
from pmemfs.fsck.mend.extents import FREE_KINDS
from pmemfs.fsck.mend.filemap import MAP_CHECKS, FileMap, build_map, read_map
from pmemfs.fsck.mend.links import put_on_orphan_list
from pmemfs.fsck.mend.mending import Belongings, Mending, NoPageError
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    MAX_FILE_BYTES,
    PAGE_BYTES,
    extent_to_offset,
    extent_to_pfn,
    pfn_to_extent,
    pfn_to_offset,
    pfn_to_slot,
)
from pmemfs.layout.records import Kind, Role
from pmemfs.layout.words import owner_word
from pmemfs.units import count

XATTR_CHECKS = ("xattr-page", "xattr-checksum", "xattr-name", "xattr-acl")


def mend_files(m: Mending) -> None:
    """Mend maps, symlinks and extended attributes; the maps of directories are not touched."""
    inos = m.subjects(*MAP_CHECKS, "inode-pages")
    belongings = m.belongings(inos)
    files = [ino for ino in inos if m.type_of(ino) == REGULAR]
    for ino in files:  # maps that lie are long: they are read twice, and no two are kept
        _File(m, ino, belongings[ino]).want()
    for ino in sorted({*inos, *m.subjects(*XATTR_CHECKS)}):
        mend_xattr(m, ino)
    for ino in files:
        _File(m, ino, belongings[ino]).mend()
    for ino in sorted({*inos, *m.subjects("symlink-target")}):
        if m.type_of(ino) == SYMLINK:
            mend_symlink(m, ino)
        elif m.type_of(ino) != REGULAR and m.record(ino)["pages"]:
            _clear_count(m, ino)
    others = set(inos)
    for ino in m.subjects("map-beyond-size"):
        if ino not in others:
            _mend_size(m, ino)


def _mend_size(m: Mending, ino: int) -> None:
    """Let the size of a file reach over its pages, if it is in doubt; else have them cut."""
    if ino in m.draft.doubtful:
        record = m.record(ino)
        end = read_map(record, m.image.geometry.n_pages, lambda pfn: bytes(m.read_page(pfn))).end
        sentence = f"let the size of inode {ino} reach over all of its {end} pages"
        if m.draft.begin("map-beyond-size", sentence, Risk.LOSES):
            m.draft.patch_inode(m.offset(ino), size=min(end * PAGE_BYTES, MAX_FILE_BYTES))
        return
    sentence = f"cut what inode {ino} has behind its size, after the next mount"
    if m.draft.begin("map-beyond-size", sentence):
        put_on_orphan_list(m, ino)


def _clear_count(m: Mending, ino: int) -> None:
    if m.draft.begin("inode-pages", f"count no pages in inode {ino}"):
        m.draft.patch_inode(m.offset(ino), pages=0)


class _File:
    """One file with a damaged map."""

    def __init__(self, m: Mending, ino: int, mine: Belongings) -> None:
        self.m = m
        self.ino = ino
        self.mine = mine
        self.record = m.record(ino)
        self.map = read_map(self.record, m.image.geometry.n_pages, self._read_node)

    def want(self) -> None:
        """Keep what the map has from being given out as free."""
        self.m.wanted.update(self.map.small.values(), self.map.nodes)
        self.m.wanted.update(extent_to_pfn(extent) for extent in self.map.whole.values())
        if self._lacks(self.map):
            mine = [*self.mine.small.values(), *map(extent_to_pfn, self.mine.whole.values())]
            self.m.named.update(dict.fromkeys(mine, self.ino))

    def _lacks(self, found: FileMap) -> bool:
        """Tell whether a map has too little, so that owner words are needed."""
        return self.map.broken or self.record["pages"] > found.pages

    def mend(self) -> None:
        """Propose the repairs; a declined one ends it."""
        doubles = self._take()
        if doubles is None:
            return
        wanted = FileMap(
            {i: p for i, p in self.map.small.items() if i not in doubles},
            {i: e for i, e in self.map.whole.items() if ~i not in doubles},
        )
        self._put_back(wanted)
        if wanted.pages >= self.record["pages"]:
            doubles = set()  # nothing is missing: such words are damage, and no claim
        same = wanted.small == self.map.small and wanted.whole == self.map.whole
        if same and not self.map.broken:
            if wanted.pages != self.record["pages"]:
                sentence = f"count {count(wanted.pages, 'page', 'pages')} in inode {self.ino}"
                if self.m.draft.begin("inode-pages", sentence):
                    self.m.draft.patch_inode(self.m.offset(self.ino), pages=wanted.pages)
            return
        self._rebuild(wanted, doubles)

    # -- who owns what -----------------------------------------------------------------------

    def _read_node(self, pfn: int) -> bytes | None:
        """Return a node page that is this file's, or could be; None for any other."""
        if not self._owns(pfn, Role.MAP, Kind.METADATA) and not self._is_free(pfn, Kind.METADATA):
            return None
        start = pfn_to_offset(pfn)
        return bytes(self.m.image.device.view[start : start + PAGE_BYTES])

    def _owns(self, pfn: int, index: int, kind: Kind) -> bool:
        extent = pfn_to_extent(pfn)
        return self.m.extents.kind[extent] == kind and self.m.owners.word_at(pfn) == owner_word(
            self.ino, index
        )

    def _is_free(self, pfn: int, kind: Kind) -> bool:
        """Tell whether no map that is in order has a page, and it could be one of this kind."""
        extent = pfn_to_extent(pfn)
        if pfn in self.m.given or pfn_to_slot(pfn) == 0 or self._is_named_other(pfn):
            return False
        if self.m.extents.kind[extent] == kind:
            return not self.m.owners.is_claimed(pfn)
        return self._is_free_extent(extent)

    def _is_named_other(self, pfn: int) -> bool:
        return self.m.named.get(pfn, self.ino) != self.ino

    def _is_free_extent(self, extent: int) -> bool:
        if extent < self.m.image.geometry.fixed_extents or extent_to_pfn(extent) in self.m.given:
            return False
        return self.m.extents.kind[extent] in FREE_KINDS

    def _take(self) -> set[int] | None:
        """Take what only this map has; return what others have: an index, or ~piece if whole."""
        takes: list[tuple[int, int, Kind]] = []
        pieces: list[tuple[int, int]] = []
        doubles: set[int] = set()
        for index, pfn in self.map.small.items():
            if self._owns(pfn, index, Kind.SMALL) and pfn not in self.m.given:
                self.m.given.add(pfn)
            elif self._is_free(pfn, Kind.SMALL):
                takes.append((pfn, index, Kind.SMALL))
                self.m.given.add(pfn)
            else:
                doubles.add(index)
        for node in self.map.nodes:
            if not self._owns(node, Role.MAP, Kind.METADATA):
                takes.append((node, Role.MAP, Kind.METADATA))
                self.m.given.add(node)
        for piece, extent in self.map.whole.items():
            self._take_piece(piece, extent, pieces, doubles)
        if self.map.pages - len(doubles) > self.record["pages"]:
            self._distrust(takes, pieces)
            return doubles
        if not takes and not pieces:
            return doubles
        n = len(takes) + len(pieces)
        what = count(n, "page or extent", "pages or extents")
        sentence = f"give {what} to inode {self.ino}, which alone has them in its map"
        if not self.m.draft.begin("map-owner", sentence):
            return None
        for pfn, index, kind in takes:
            if self.m.extents.kind[pfn_to_extent(pfn)] != kind:
                self.m.start_extent(pfn_to_extent(pfn), kind)
            self.m.draft.set_owner(pfn, owner_word(self.ino, index))
        for piece, extent in pieces:
            self.m.draft.put_head(extent, Kind.WHOLE, owner=self.ino, index=piece)
            self.m.extents.kind[extent] = Kind.WHOLE
        return doubles

    def _distrust(self, takes: list[tuple[int, int, Kind]], pieces: list[tuple[int, int]]) -> None:
        """Let go what only this map has."""
        self.map.broken = True
        for pfn, index, kind in takes:
            if kind == Kind.SMALL:
                del self.map.small[index]
            self.m.given.discard(pfn)
        for piece, extent in pieces:
            del self.map.whole[piece]
            self.m.given.discard(extent_to_pfn(extent))

    def _take_piece(
        self, piece: int, extent: int, pieces: list[tuple[int, int]], doubles: set[int]
    ) -> None:
        first = extent_to_pfn(extent)
        head = self.m.draft.head(extent)
        is_whole = self.m.extents.kind[extent] == Kind.WHOLE
        if is_whole and (head["owner"], head["index"]) == (self.ino, piece):
            self.m.given.add(first)
        elif first not in self.m.given and (
            self._is_free_extent(extent)
            or (
                is_whole
                and not self.m.extents.whole_claimed[extent]
                and not self._is_named_other(first)
            )
        ):
            pieces.append((piece, extent))
            self.m.given.add(first)
        else:
            doubles.add(~piece)

    def _put_back(self, wanted: FileMap) -> None:
        """Add what only owner words and heads give to this file, if it misses pages."""
        if not self._lacks(wanted):
            return
        for piece, extent in self.mine.whole.items():
            first = extent_to_pfn(extent)
            if piece not in wanted.whole and first not in self.m.given:
                wanted.whole[piece] = extent
                self.m.given.add(first)
        for index, pfn in self.mine.small.items():
            if index not in wanted.small and pfn not in self.m.given:
                wanted.small[index] = pfn
                self.m.given.add(pfn)
        covered = {i for i in wanted.small if i >> 9 in wanted.whole}
        for index in covered:
            del wanted.small[index]

    # -- building ----------------------------------------------------------------------------

    def _rebuild(self, wanted: FileMap, doubles: set[int]) -> None:
        lost = max(self.record["pages"] - wanted.pages, 0)
        risk = Risk.LOSES if doubles or lost else Risk.SAFE
        sentence = (
            f"rebuild the map of inode {self.ino} with {count(wanted.pages, 'page', 'pages')}"
        )
        if doubles:
            sentence += f"; {len(doubles)} that belong to others are copied, or become holes"
        elif lost:
            sentence += f"; {lost} that it counts are lost"
        check = "map-empty" if self.m.is_found("map-empty", self.ino) else "map-word"
        if not self.m.draft.begin("map-owner" if doubles else check, sentence, risk):
            return
        self._copy(wanted, doubles)
        reuse = list(self.mine.pages.get(Role.MAP, []))
        word = owner_word(self.ino, Role.MAP)
        kept = set(reuse)

        def store_node(page: bytes) -> int:
            pfn = self.m.new_page(Kind.METADATA, word, page, reuse)
            kept.discard(pfn)
            return pfn

        fields = build_map(wanted, store_node)
        self.m.draft.patch_inode(self.m.offset(self.ino), pages=wanted.pages, **fields)
        for pfn in sorted(kept | set(self.map.nodes)):
            if self._owns(pfn, Role.MAP, Kind.METADATA):
                self.m.free_page(pfn)

    def _copy(self, wanted: FileMap, doubles: set[int]) -> None:
        """Copy pages of data that belong to others; what finds no place becomes a hole."""
        view = self.m.image.device.view
        for index in sorted(i for i in doubles if i >= 0):
            if not self._is_data(self.map.small[index]):
                continue
            start = pfn_to_offset(self.map.small[index])
            data = bytes(view[start : start + PAGE_BYTES])
            try:
                word = owner_word(self.ino, index)
                wanted.small[index] = self.m.new_page(Kind.SMALL, word, data, [])
            except NoPageError:
                break
        for piece in sorted(~i for i in doubles if i < 0):
            extent = next(self.m.free_extents(), None)
            if extent is not None and self._is_data(extent_to_pfn(self.map.whole[piece])):
                start = extent_to_offset(self.map.whole[piece])
                self.m.copy_extent(extent, bytes(view[start : start + EXTENT_BYTES]))
                self.m.draft.put_head(extent, Kind.WHOLE, owner=self.ino, index=piece)
                self.m.extents.kind[extent] = Kind.WHOLE
                wanted.whole[piece] = extent

    def _is_data(self, pfn: int) -> bool:
        """Tell whether a page holds data of a file: nothing else may be read through one."""
        kind = self.m.extents.kind[pfn_to_extent(pfn)]
        return kind == Kind.WHOLE or (kind == Kind.SMALL and pfn_to_slot(pfn) != 0)
