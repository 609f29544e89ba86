"""The view ``page PFN``: what the two-level lookup finds for one page, and how it got there.

The head of the extent is looked at first. Only if it says `PG_split`, under the current mount
generation and with a daemon alive, the split table is asked; a page that was not touched since
the split, and any page of an extent that is not split, is told by the owner page, and a page of
a whole extent by the head alone.
"""

from __future__ import annotations

from typing import Any

from pmemfs.inspect.extent import (
    counted_kind_name,
    owner_fields,
    unpack_descriptor,
    validate_number,
)
from pmemfs.inspect.heads import TABLE_SHIFT, is_current, is_sound, is_split, read_table
from pmemfs.inspect.place import describe_offset
from pmemfs.inspect.reader import Reader
from pmemfs.layout.geometry import (
    PAGE_DESCRIPTOR_BYTES,
    PAGES_PER_EXTENT,
    WORD_BYTES,
    extent_to_pfn,
    pfn_to_extent,
    pfn_to_offset,
    pfn_to_slot,
)
from pmemfs.layout.records import Kind, PageFlag


class _Lookup:
    """One lookup: its steps so far, and what it has found."""

    def __init__(self, reader: Reader, pfn: int) -> None:
        self.reader = reader
        self.pfn = pfn
        self.extent = pfn_to_extent(pfn)
        self.slot = pfn_to_slot(pfn)
        self.head = reader.head(self.extent)
        self.steps: list[dict[str, Any]] = []
        self.found_by = "head"
        self.state = "free"
        self.owner = owner_fields(Kind.FREE, 0)
        self.descriptor: dict[str, Any] | None = None

    def step(self, look: str, offset: int, finds: str) -> None:
        self.steps.append({"look": look, "offset": offset, "finds": finds})

    def run(self) -> None:
        kind = counted_kind_name(self.reader, self.extent, self.head)
        self.step("head", self.reader.geometry.head_offset(self.extent), f"{kind} extent")
        if not is_sound(self.head):
            self.reader.remark(f"the head of extent {self.extent} has a wrong checksum")
        if self.head["kind"] in (Kind.SMALL, Kind.METADATA):
            self._paged()
        elif self.head["kind"] == Kind.WHOLE:
            self._whole()
        elif kind not in ("free", "returned"):
            self.state = kind

    def _whole(self) -> None:
        index = self.head["index"] * PAGES_PER_EXTENT + self.slot
        self.state = "owned"
        self.owner = {"ino": self.head["owner"], "index": index, "role": None}
        place = self.reader.geometry.head_offset(self.extent)
        self.step("head", place, f"piece {self.head['index']} of inode {self.head['owner']}")

    def _paged(self) -> None:
        if self.slot == 0:
            self.state = "owner page"
            return
        self._split()
        if self.descriptor is None:
            self._owner_page()

    def _split(self) -> None:
        place = self.reader.geometry.head_offset(self.extent)
        if self.head["kind"] != Kind.SMALL:
            return
        self.step("PG_split", place, self._split_finding())
        if not is_split(self.reader, self.head):
            return
        table_pfn = self.head["table"] >> TABLE_SHIFT
        table = read_table(self.reader, self.extent, table_pfn)
        if table is None:
            return
        self.descriptor = unpack_descriptor(table, self.slot)
        place = pfn_to_offset(table_pfn) + self.slot * PAGE_DESCRIPTOR_BYTES
        self.step("page descriptor", place, self._descriptor_finding())

    def _split_finding(self) -> str:
        if not self.head["table"] & PageFlag.SPLIT:
            return "not set: the owner page tells"
        if not is_current(self.reader, self.head):
            generations = f"{self.head['generation']}, now it is {self.reader.generation}"
            return f"set in mount generation {generations}: void, the owner page tells"
        if not self.reader.live:
            return "set, but no daemon is alive: void, the owner page tells"
        return f"set, split table at pfn {self.head['table'] >> TABLE_SHIFT}"

    def _descriptor_finding(self) -> str:
        if self.descriptor is None:
            return "not touched since the split: the owner page tells"
        self.found_by, self.state = "page descriptor", "owned"
        self.owner = owner_fields(Kind.SMALL, self.descriptor["owner"])
        return self._owner_text()

    def _owner_page(self) -> None:
        page = extent_to_pfn(self.extent)
        word = self.reader.word(page, self.slot)
        self.found_by = "owner page"
        self.state = "owned" if word else "free"
        self.owner = owner_fields(self.head["kind"], word)
        place = pfn_to_offset(page) + self.slot * WORD_BYTES
        self.step("owner word", place, self._owner_text() if word else "0: the page is free")

    def _owner_text(self) -> str:
        if self.owner["role"]:
            return f"{self.owner['role']} page of inode {self.owner['ino']}"
        return f"page {self.owner['index']} of inode {self.owner['ino']}"


def page(reader: Reader, pfn: int) -> dict[str, Any]:
    """Return ``state``, the owner, its ``descriptor`` if touched, and the ``steps`` taken.

    ``found_by`` is head, page descriptor or owner page. ``index`` counts pages of the file.
    Raises `PmemfsError` when there is no such page.
    """
    validate_number("pfn", pfn, reader.geometry.n_pages)
    lookup = _Lookup(reader, pfn)
    lookup.run()
    return {
        "pfn": pfn,
        "extent": lookup.extent,
        "slot": lookup.slot,
        "offset": pfn_to_offset(pfn),
        "holds": describe_offset(reader, pfn_to_offset(pfn)),
        "state": lookup.state,
        "found_by": lookup.found_by,
        **lookup.owner,
        "descriptor": lookup.descriptor,
        "steps": lookup.steps,
    }
