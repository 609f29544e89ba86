"""The view page PFN: the two-level lookup and its steps."""

import pytest
from hand_built import daemon

from pmemfs.errors import PmemfsError
from pmemfs.inspect import page
from pmemfs.layout.records import Kind, PageFlag
from pmemfs.layout.words import owner_word

CURRENT = 7
FIRST = 5 * 512
TABLE_PFN = 3 * 512 + 8
SPLIT = TABLE_PFN << 8 | PageFlag.SPLIT


@pytest.fixture
def split(built):
    built.small(5, {1: (9, 0), 2: (9, 1)}, generation=CURRENT, table=SPLIT)
    built.descriptor(TABLE_PFN, 1, owner=owner_word(9, 0), state=50 << 8 | PageFlag.REFERENCED)
    return built


def looks(data):
    return [step["look"] for step in data["steps"]]


def test_touched_page_is_told_by_its_descriptor(split, look):
    with daemon(split.path):
        data = look(page, FIRST + 1)
    assert data["found_by"] == "page descriptor"
    assert looks(data) == ["head", "PG_split", "page descriptor"]
    assert (data["ino"], data["index"], data["state"]) == (9, 0, "owned")
    assert data["descriptor"]["referenced"] is True
    assert data["steps"][2]["offset"] == TABLE_PFN * 4096 + 64


def test_untouched_page_is_told_by_the_owner_page(split, look):
    with daemon(split.path):
        data = look(page, FIRST + 2)
    assert data["found_by"] == "owner page"
    assert looks(data) == ["head", "PG_split", "page descriptor", "owner word"]
    assert (data["ino"], data["index"]) == (9, 1)


def test_without_a_daemon_the_table_is_void(split, look):
    data = look(page, FIRST + 1)
    assert data["found_by"] == "owner page"
    assert "no daemon is alive" in data["steps"][1]["finds"]


def test_a_table_of_another_generation_is_void(split, look):
    split.control(generation=CURRENT + 1)
    with daemon(split.path):
        data = look(page, FIRST + 1)
    assert data["found_by"] == "owner page"
    assert "generation 7, now it is 8: void" in data["steps"][1]["finds"]


def test_a_wild_table_falls_back_to_the_owner_page(split, look):
    split.small(5, {1: (9, 0)}, generation=CURRENT, table=1 << 47 | PageFlag.SPLIT)
    with daemon(split.path):
        data = look(page, FIRST + 1)
    assert data["found_by"] == "owner page"
    assert "beyond the device" in data["remarks"][0]


def test_page_of_a_whole_extent_is_told_by_the_head(built, look):
    built.head(6, Kind.WHOLE, owner=4, index=3)
    data = look(page, 6 * 512 + 10)
    assert (data["found_by"], data["ino"], data["index"]) == ("head", 4, 3 * 512 + 10)


@pytest.mark.parametrize(
    ("pfn", "state", "holds"),
    [
        (0, "fixed", "superblock"),
        (1, "fixed", "control page, committed"),
        (5, "fixed", "unused page"),
        (16, "fixed", "journal slot 0"),
        (80, "fixed", "journal slot 1"),
        (512, "fixed", "head of extent 0, kind"),
        (513, "fixed", "unused rest of the head table"),
        (1023, "fixed", "backup superblock"),
        (1025, "inodes", "inode 16, mode"),
        (1536, "descriptor", "pfn 1536 (page 0 of descriptor extent 3)"),
        (FIRST, "owner page", f"owner word of pfn {FIRST} (extent 5)"),
        (FIRST + 9, "free", f"pfn {FIRST + 9} (page 9 of small extent 5)"),
        (20 * 512, "free", "pfn 10240 (page 0 of free extent 20)"),
    ],
)
def test_what_pages_hold(split, look, pfn, state, holds):
    data = look(page, pfn)
    assert (data["state"], data["holds"]) == (state, holds)


@pytest.mark.parametrize("pfn", [-1, 32 * 512, 1 << 64])
def test_no_such_page(look, pfn):
    with pytest.raises(PmemfsError, match="there is no pfn"):
        look(page, pfn)
