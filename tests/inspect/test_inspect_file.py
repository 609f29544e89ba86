"""The view file PATH: lookup in tries, both kinds of map, and maps that lie."""

import errno
import stat

import pytest
from hand_built import EXTENT, SEED

from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.inspect import file
from pmemfs.inspect.directory import name_hash
from pmemfs.layout.records import MapKind, Role
from pmemfs.layout.words import COUNT_SHIFT, HOLE, NODE, WHOLE

META = 4 * 512
SMALL = 5 * 512
REG = stat.S_IFREG | 0o644


def run(pfn, count, flags=0):
    return pfn | flags | count << COUNT_SHIFT


@pytest.fixture
def rooted(built):
    built.root({b"f": 2, b"d": 3, b"l": 4})
    return built


def test_runs_of_pages_and_whole_extents(rooted, look):
    rooted.small(5, {slot: (2, slot) for slot in range(1, 11)})
    for place in range(3):
        rooted.head(6 + place, 2, owner=2, index=1 + place)
    words = [run(SMALL + 1, 3), HOLE | 2, run(SMALL + 4, 7), HOLE | 500, run(6 * 512, 1536, WHOLE)]
    rooted.inode(2, REG, map=words, pages=1546, size=4 * 512 * 4096)
    data = look(file, b"/f")
    small, whole = data["pieces"]
    assert small["runs"] == [
        {"page": 0, "pfn": SMALL + 1, "extent": 5, "pages": 3},
        {"page": 5, "pfn": SMALL + 4, "extent": 5, "pages": 7},
    ]
    assert whole == {"piece": 1, "count": 3, "kind": "whole", "extent": 6}
    assert (data["mapped_pages"], data["hole_pages"]) == (1546, 502)
    assert data["remarks"] == []


def test_a_run_is_cut_at_pieces(rooted, look):
    rooted.small(5, {slot: (2, slot) for slot in range(1, 21)})
    rooted.inode(2, REG, map=[HOLE | 502, run(SMALL + 1, 20)], pages=20, size=522 * 4096)
    data = look(file, b"f")
    assert [(p["piece"], p["runs"][0]["pages"]) for p in data["pieces"]] == [(0, 10), (1, 10)]


def test_tree_of_two_levels(rooted, look):
    rooted.small(5, {slot: (2, slot) for slot in (1, 2)})
    rooted.head(6, 2, owner=2, index=513)
    rooted.own_metadata(META + 2, 2, Role.MAP)
    rooted.own_metadata(META + 3, 2, Role.MAP)
    rooted.words(META + 2, {0: META + 3})
    rooted.words(META + 3, {0: SMALL + 1, 511: SMALL + 2})
    rooted.own_metadata(META + 4, 2, Role.MAP)
    rooted.words(META + 4, {1: 6 * 512 | WHOLE})
    rooted.inode(
        2, REG, map=[META + 2, META + 4], map_kind=MapKind.TREE, map_height=2, pages=514, size=1
    )
    data = look(file, b"/f")
    assert data["remarks"] == []
    assert [(p["piece"], p["kind"]) for p in data["pieces"]] == [(0, "small"), (513, "whole")]
    assert [run["page"] for run in data["pieces"][0]["runs"]] == [0, 511]
    assert [node["height"] for node in data["map_nodes"]] == [2, 1, 2]


def test_tree_that_loops_ends_with_remarks(rooted, look):
    rooted.own_metadata(META + 2, 2, Role.MAP)
    rooted.words(META + 2, dict.fromkeys(range(512), META + 2))
    rooted.inode(2, REG, map=[META + 2] * 17, map_kind=MapKind.TREE, map_height=4)
    data = look(file, b"/f")
    assert len(data["remarks"]) == 51
    assert "stands in the tree twice" in data["remarks"][0]
    assert data["remarks"][-1].startswith("and ")
    assert len(data["map_nodes"]) == 1


@pytest.mark.parametrize(
    ("fields", "remark"),
    [
        ({"map": [run((1 << 40) - 1, 5)]}, "beyond the device or file"),
        ({"map": [HOLE | (1 << 40) - 1, run(SMALL, 1)]}, "beyond the device or file"),
        ({"map": [SMALL | WHOLE]}, "a run of no pages"),
        ({"map": [run(SMALL + 1, 512, WHOLE)]}, "are not whole extents"),
        ({"map": [run(20 * 512, 1)]}, "is in a small extent, but 20 is free"),
        ({"map": [META + 1], "map_kind": 1, "map_height": 1}, "has owner word"),
        ({"map": [SMALL], "map_kind": 1, "map_height": 1}, "is not in a metadata extent"),
        ({"map": [1 << 50], "map_kind": 1, "map_height": 1}, "wild map word"),
        ({"map": [SMALL | WHOLE], "map_kind": 1, "map_height": 2}, "wild map word"),
        ({"map": [1], "map_kind": 1, "map_height": 200}, "map of kind 1 and height 200"),
        ({"map": [1], "map_kind": 9}, "map of kind 9"),
    ],
)
def test_maps_that_lie_are_remarked(rooted, look, fields, remark):
    rooted.inode(2, REG, **fields)
    data = look(file, b"/f")
    assert remark in data["remarks"][0]


def test_directory_trie(rooted, look):
    names = {b"name %d" % number: number for number in range(20, 60)}
    halves = ({}, {})
    for name, ino in names.items():
        halves[name_hash(name, SEED) >> 62 & 1][name] = ino
    rooted.own_metadata(META + 2, 3, Role.DIRECTORY_NODE)
    for half in (0, 1):
        rooted.own_metadata(META + 3 + half, 3, Role.DIRECTORY_LEAF)
        rooted.leaf(META + 3 + half, 3, halves[half], depth=1, prefix=half << 62)
        span = range(half * 256, half * 256 + 256)
        rooted.words(META + 2, dict.fromkeys(span, META + 3 + half))
    rooted.directory(3, META + 2 | NODE, len(names))
    for ino in names.values():
        rooted.inode(ino, stat.S_IFIFO)
    for name, ino in names.items():
        assert look(file, b"/d/./" + name)["ino"] == ino
    data = look(file, b"/d")
    assert data["remarks"] == []
    assert data["directory"]["entries"] == 40
    assert [row["role"] for row in data["directory"]["pages"]] == [
        "directory_node",
        "directory_leaf",
        "directory_leaf",
    ]
    with pytest.raises(PmemfsError, match="there is no 'nothing' in /d"):
        look(file, b"/d/nothing")


def test_directory_that_loops_ends(rooted, look):
    rooted.own_metadata(META + 2, 3, Role.DIRECTORY_NODE)
    rooted.words(META + 2, dict.fromkeys(range(512), META + 2 | NODE))
    rooted.directory(3, META + 2 | NODE, 0)
    assert len(look(file, b"/d")["directory"]["pages"]) == 1
    with pytest.raises(DamagedImageError, match="deeper than its hash"):
        look(file, b"/d/x")


@pytest.mark.parametrize("word", [1 << 41, (1 << 40) - 1, (1 << 40) - 1 | NODE, SMALL, 1])
def test_directory_with_a_wild_word(rooted, look, word):
    rooted.directory(3, word, 0)
    assert look(file, b"/d")["remarks"]
    with pytest.raises(DamagedImageError):
        look(file, b"/d/x")


def test_leaf_with_wild_slots(rooted, look):
    rooted.store(META * 4096 + 4096 + 8, b"\xff\xff")
    with pytest.raises(DamagedImageError, match="claims 65535 slots"):
        look(file, b"/f")
    assert "claims 65535 slots" in look(file, b"/")["remarks"][0]


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        (b"/nothing", errno.ENOENT, "there is no 'nothing' in / of the image"),
        (b"/\x1b[31m\xff", errno.ENOENT, r"\\x1b\[31m\\xff"),
        (b"/f/x", errno.ENOTDIR, "/f is not a directory"),
        (b"/l/x", errno.ENOTDIR, "/l is a symbolic link to 'else\\\\nwhere'"),
        (b"/" + b"n" * 256, errno.ENAMETOOLONG, "a name of 256 bytes"),
        (b"<99>", errno.ENOENT, "inode 99 is free"),
        (b"<99999999>", errno.ENOENT, "there is no inode 99999999"),
        (b"<0>", errno.ENOENT, "there is no inode 0"),
    ],
)
def test_paths_that_lead_nowhere(rooted, look, path, code, text):
    rooted.inode(2, REG)
    target = b"else\nwhere"
    words = [int.from_bytes(target[:8], "little"), int.from_bytes(target[8:], "little")]
    rooted.inode(4, stat.S_IFLNK | 0o777, map=words, map_kind=MapKind.INLINE, size=len(target))
    with pytest.raises(PmemfsError, match=text) as caught:
        look(file, path)
    assert caught.value.errno == code


def test_symlinks_and_dots(rooted, look):
    rooted.inode(4, stat.S_IFLNK | 0o777, map=[0x6162], map_kind=MapKind.INLINE, size=2)
    assert look(file, b"/l")["target"] == "ba"
    rooted.own_metadata(META + 2, 4, Role.SYMLINK)
    rooted.store((META + 2) * 4096, b"long" * 100)
    rooted.inode(4, stat.S_IFLNK | 0o777, map=[META + 2], size=400)
    assert look(file, b"/l")["target"] == "long" * 100
    rooted.inode(4, stat.S_IFLNK | 0o777, map=[META + 3], size=400)
    data = look(file, b"<4>")
    assert data["target"] is None
    assert data["remarks"]
    for path in (b"", b"/", b"/..", b"//./"):
        assert look(file, path)["ino"] == 1


def test_wrong_checksum_and_type_are_shown(rooted, look):
    rooted.inode(2, 0o170000 - 1, map_kind=0)
    rooted.store(2 * EXTENT + 2 * 256 + 4, b"\x09")
    data = look(file, b"/f")
    assert data["type"].startswith("unknown")
    assert "wrong checksum" in data["remarks"][0]
