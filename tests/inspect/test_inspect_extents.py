"""The views extents and extent N."""

import pytest
from hand_built import HandBuilt, daemon

from pmemfs.errors import PmemfsError
from pmemfs.inspect import Reader, collect, extent, extents
from pmemfs.inspect import reader as reader_module
from pmemfs.layout.records import Kind, PageFlag
from pmemfs.layout.words import owner_word

CURRENT = 7
TABLE_PFN = 3 * 512 + 8
SPLIT = TABLE_PFN << 8 | PageFlag.SPLIT


def spans(data):
    return [(row["extent"], row["count"], row["kind"]) for row in data["extents"]]


def test_ranges_of_equal_extents(built, look):
    for place in range(4):
        built.head(6 + place, Kind.WHOLE, owner=2, index=place, wear=10, access_s=place)
    built.head(10, Kind.WHOLE, owner=2, index=9)
    data = look(extents)
    assert spans(data) == [
        (0, 2, "fixed"),
        (2, 1, "inodes"),
        (3, 1, "descriptor"),
        (4, 2, "free"),
        (6, 4, "whole"),
        (10, 1, "whole"),
        (11, 21, "free"),
    ]
    assert data["extents"][4]["wear"] == 40
    assert data["extents"][4]["access_s"] is None


def test_access_is_believed_under_the_current_generation(built, look):
    for place in range(3):
        built.head(6 + place, Kind.WHOLE, owner=2, index=place, generation=7, access_s=90 + place)
    row = look(extents, kind="whole")["extents"][0]
    assert (row["count"], row["access_s"]) == (3, 92)


def test_all_rows_are_those_of_heads_that_exist(built, look):
    data = look(extents, all_rows=True)
    assert sum(row["count"] for row in data["extents"]) == 32
    assert all(row["count"] == 1 for row in data["extents"])
    assert len(data["extents"]) == 32


def test_rows_of_a_sparse_device_do_not_grow_with_its_size(tmp_path):
    built = HandBuilt(tmp_path / "big.img", 1 << 40)
    built.head(400_000, Kind.WHOLE, owner=2)
    with Reader(built.path) as reader:
        ranges = collect(reader, extents)
        rows = collect(reader, lambda reader: extents(reader, all_rows=True))
    built.close()
    assert len(ranges["extents"]) == 6
    assert len(rows["extents"]) <= 4 * 64 + 3
    assert sum(row["count"] for row in rows["extents"]) == 1 << 19


def test_slices_do_not_cut_ranges(built, look, monkeypatch):
    for place in range(20):
        built.head(6 + place, Kind.WHOLE, owner=2, index=place, wear=1)
    expected = look(extents)["extents"]
    monkeypatch.setattr(reader_module, "HEADS_PER_SLICE", 3)
    assert look(extents)["extents"] == expected


def test_sort_puts_the_largest_first(built, look):
    built.small(5, {1: (9, 0)}, wear=5, generation=7, access_s=30)
    built.small(6, {1: (9, 1), 2: (9, 2)}, wear=4, generation=7, access_s=20)
    built.small(7, {1: (9, 3)}, wear=6, generation=7, access_s=10)
    order = {
        key: [row["extent"] for row in look(extents, sort=key, kind="small")["extents"]]
        for key in ("extent", "used", "wear", "access")
    }
    assert order["extent"] == [5, 6, 7]
    assert order["used"][0] == 6
    assert order["wear"] == [7, 5, 6]
    assert order["access"] == [5, 6, 7]


def test_stale_descriptor_extents_show_as_returned(built, look):
    built.head(6, Kind.DESCRIPTOR, generation=CURRENT)
    row = look(extents, kind="returned")["extents"][0]
    assert (row["extent"], row["kind_code"]) == (6, Kind.DESCRIPTOR)


def test_small_extent_page_by_page(built, look):
    built.small(5, {1: (9, 0), 3: (9, 7)})
    data = look(extent, 5)
    assert data["kind"] == "small"
    assert data["free_pages"] == 509
    assert [(p["slot"], p["pfn"], p["ino"], p["index"]) for p in data["pages"]] == [
        (1, 5 * 512 + 1, 9, 0),
        (3, 5 * 512 + 3, 9, 7),
    ]
    assert data["checksum_valid"] is True
    assert data["split"] is False
    assert data["remarks"] == []


def test_split_extent_shows_its_descriptors(built, look):
    built.small(5, {1: (9, 0), 2: (9, 1)}, generation=CURRENT, table=SPLIT)
    state = 1234 << 8 | PageFlag.DIRTY
    built.descriptor(TABLE_PFN, 1, owner=owner_word(9, 0), state=state, wear=3)
    with daemon(built.path):
        data = look(extent, 5)
        tables = look(extent, 3)["tables"]
    touched, untouched = data["pages"]
    assert data["table_pfn"] == TABLE_PFN
    assert touched["descriptor"] == {
        "owner": 9,
        "dirty": True,
        "referenced": False,
        "access_s": 1234,
        "wear": 3,
    }
    assert untouched["descriptor"] is None
    assert tables == [{"table_pfn": TABLE_PFN, "extent": 5}]
    assert look(extent, 5)["split"] is False


def test_disagreements_are_remarked(built, look):
    built.small(5, {1: (9, 0)}, generation=CURRENT, table=SPLIT)
    built.descriptor(TABLE_PFN, 1, owner=owner_word(8, 0))
    built.word(5 * 512, 9, owner_word(4, 4))
    with daemon(built.path):
        data = look(extent, 5)
    assert len(data["remarks"]) == 2
    assert "owner 0x8, the owner page 0x9" in data["remarks"][0]
    assert "counts 1 pages, the owner page 2" in data["remarks"][1]


def test_other_kinds(built, look):
    built.root({})
    assert look(extent, 4)["pages"][0]["role"] == "directory_leaf"
    assert look(extent, 2)["inodes"]["last_ino"] == 8191
    assert look(extent, 0)["holds"] == "superblock, control page and journal"
    assert look(extent, 1)["holds"] == "heads of extents 0 to 31"
    assert "pages" not in look(extent, 20)


def test_an_unknown_role_is_shown_as_it_is(built, look):
    built.metadata(4, {1: (9, 77)})
    assert look(extent, 4)["pages"][0]["role"] == "unknown (77)"


@pytest.mark.parametrize("number", [-1, 32, 1 << 70])
def test_no_such_extent(look, number):
    with pytest.raises(PmemfsError, match="the device has 0 to 31"):
        look(extent, number)
