"""Lies with right checksums, one by one: each is a clear error, and nothing of others is lost.

Each was found by a mutant, or by asking what the engine believes.
"""

from __future__ import annotations

import errno
import gc
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mutant_bases import CLOSED, build_base
from mutant_run import copy_sparse, iter_kept
from mutant_sites import ImageFile, Site
from mutant_use import Refused, walk
from volumes import REGULAR, findings_of

from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.inodes import Run, encode_runs
from pmemfs.fs.volume import ROOT_INO
from pmemfs.fsck import everything, repair
from pmemfs.fuse.mount import describe_recovery
from pmemfs.image import Image, Lock
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    PAGE_BYTES,
    extent_to_offset,
    inode_offset,
    journal_slot_offset,
    pfn_to_extent,
    pfn_to_slot,
)
from pmemfs.layout.record import Record
from pmemfs.layout.records import (
    CONTROL,
    DIRECTORY_LEAF,
    DIRECTORY_SLOT,
    HEAD,
    INODE,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    MAP_WORDS,
    NOTHING_TO_REPLAY,
    XATTR_ENTRY,
    XATTR_PAGE,
    EntryKind,
    Kind,
    MountState,
)
from pmemfs.layout.words import NODE, PFN_MASK
from pmemfs.units import GIB


class Liar:
    """An image of everything, closed; `lie` changes fields and makes the sums right again."""

    def __init__(self, base: Path, path: Path) -> None:
        self.path = path
        copy_sparse(base, path)
        self.inodes: dict[str, Any] = {}
        with Volume.open(path) as volume:
            self.geometry = volume.geometry
            for name in (
                b"whole",
                b"small1",
                b"small3",
                b"small4",
                b"tree1",
                b"tree2",
                b"wide",
                b"folder",
            ):
                self.inodes[name.decode()] = volume.lookup(ROOT_INO, name)
            folder = self.inodes["folder"].ino
            self.inodes["below"] = volume.lookup(folder, b"below")
            self.inodes["link"] = volume.lookup(folder, b"long link")
            self.inodes["root"] = volume.inode(ROOT_INO)
        self.file = ImageFile(path)

    def close(self) -> None:
        self.file.close()

    def lie(self, record: Record, offset: int, summed: Any = None, **fields: Any) -> None:
        before = record.unpack(self.file.read(offset, record.size_bytes))
        self.file.write(offset, record.pack(**(before | fields)))
        Site(record, offset, summed).reseal(self.file)

    def inode(self, name: str, **fields: Any) -> None:
        offset = self.inodes[name].offset
        self.lie(INODE, offset, (INODE, offset), **fields)

    def map(self, name: str, place: int, word: int) -> None:
        words = INODE.unpack(self.file.read(self.inodes[name].offset, INODE.size_bytes))["map"]
        self.inode(name, map=(*words[:place], word, *words[place + 1 :]))

    def head(self, extent: int, **fields: Any) -> None:
        offset = self.geometry.head_offset(extent)
        self.lie(HEAD, offset, (HEAD, offset), **fields)

    def leaf(self, name: str) -> int:
        """Byte offset of the first leaf of a directory."""
        word: int = self.inodes[name].words[0]
        while word & NODE:
            page = self.file.read((word & PFN_MASK) * PAGE_BYTES, 8)
            word = int.from_bytes(page, "little")
        return word * PAGE_BYTES

    def first_node(self, name: str) -> int:
        """The pfn of the first node of a tree."""
        return next(word for word in self.inodes[name].words if word)

    def free_chain_in_a_circle(self) -> None:
        """Let the second free inode lead back to the first."""
        extent = self.geometry.first_inode_extent
        head = self.file.read(self.geometry.head_offset(extent), HEAD.size_bytes)
        first = HEAD.unpack(head)["free_first"]
        at = inode_offset(extent, first)
        at = inode_offset(extent, INODE.unpack(self.file.read(at, INODE.size_bytes))["next"])
        self.lie(INODE, at, (INODE, at), next=first)

    def slot(self, name: str, number: int, **fields: Any) -> None:
        start = self.leaf(name) + DIRECTORY_LEAF.size_bytes + number * DIRECTORY_SLOT.size_bytes
        self.lie(DIRECTORY_SLOT, start, **fields)

    def control(self, **fields: Any) -> None:
        self.lie(CONTROL, CONTROL_OFFSET, **fields)

    def owner(self, pfn: int, word: int) -> None:
        offset = extent_to_offset(pfn_to_extent(pfn)) + pfn_to_slot(pfn) * 8
        self.file.write(offset, word.to_bytes(8, "little"))

    def transaction(self, offset: int, length: int) -> None:
        """Leave a transaction to be replayed that stores ones over a range."""
        committed = CONTROL.unpack(self.file.read(CONTROL_OFFSET, CONTROL.size_bytes))["committed"]
        sequence = committed & ~NOTHING_TO_REPLAY
        slot = journal_slot_offset(sequence)
        payload = JOURNAL_ENTRY.pack(offset=offset, length=length, kind=EntryKind.STORE)
        payload += b"\xff" * length
        header = JOURNAL_HEADER.pack(sequence=sequence, payload_bytes=len(payload), entries=1)
        self.file.write(slot, header + payload)
        Site(JOURNAL_ENTRY, slot, (JOURNAL_ENTRY, slot)).reseal(self.file)
        self.control(committed=sequence, state=MountState.MOUNTED)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.img"
    build_base(CLOSED, path)
    return path


@pytest.fixture
def liar(base: Path, image_dir: Path) -> Iterator[Liar]:
    one = Liar(base, image_dir / "liar.img")
    yield one
    one.close()


def release_all(volume: Volume) -> None:
    while volume.release_idle():
        pass


def page_of(inode: Any, run: int = 0) -> int:
    pfn: int = inode.runs[run][2]
    return pfn


# -- lies that the mount finds -------------------------------------------------------------------

AT_MOUNT: dict[str, Callable[[Liar], None]] = {
    "an unknown kind": lambda x: x.head(20, kind=9),
    "a kind that its checksum does not know": lambda x: x.lie(
        HEAD, x.geometry.head_offset(pfn_to_extent(page_of(x.inodes["whole"]))), kind=Kind.FREE
    ),
    "more pages in use than an extent has": lambda x: x.head(
        pfn_to_extent(page_of(x.inodes["small1"])), used=512
    ),
    "a fixed extent that is free": lambda x: x.lie(
        HEAD, x.geometry.head_offset(0), kind=0, checksum=0
    ),
    "two chunks of one number": lambda x: x.head(20, kind=Kind.INODES, index=0),
    "a chunk beyond the last": lambda x: x.head(20, kind=Kind.INODES, index=1 << 20),
    "a frontier beyond the chunk": lambda x: x.head(x.geometry.first_inode_extent, frontier=8193),
    "a free chain that leaves its chunk": lambda x: x.head(
        x.geometry.first_inode_extent, free_first=8192
    ),
    "an orphan that does not exist": lambda x: x.control(orphan_first=5000),
    "an orphan list in a circle": lambda x: [
        x.control(orphan_first=x.inodes["small1"].ino),
        x.inode("small1", next=x.inodes["small1"].ino),
    ],
    "an orphan beyond all inodes": lambda x: x.control(orphan_first=1 << 40),
    "an orphan that is a directory with names": lambda x: x.control(
        orphan_first=x.inodes["folder"].ino
    ),
    "the last generation": lambda x: x.control(generation=(1 << 64) - 1),
    "the last transaction": lambda x: x.control(committed=(1 << 64) - 1),
    "a state that is none": lambda x: x.control(state=7),
    "a transaction over the superblock": lambda x: x.transaction(0, 8),
    "a transaction over the commit word": lambda x: x.transaction(CONTROL_OFFSET, 8),
    "a transaction over the journal": lambda x: x.transaction(journal_slot_offset(0), 8),
    "a transaction behind the image": lambda x: x.transaction(x.geometry.device_bytes - 4, 8),
    "a transaction far outside": lambda x: x.transaction((1 << 64) - 8, 8),
}


@pytest.mark.parametrize("name", AT_MOUNT)
def test_a_lie_that_the_mount_finds(liar: Liar, name: str) -> None:
    AT_MOUNT[name](liar)
    assert findings_of(liar.path)
    before = liar.file.read(0, 4 * EXTENT_BYTES)
    with pytest.raises(PmemfsError) as caught:
        Volume.open(liar.path)
    assert caught.value.errno == errno.EUCLEAN
    assert liar.file.read(0, 4 * EXTENT_BYTES) == before, "and nothing was written"


@pytest.mark.parametrize("name", AT_MOUNT)
def test_what_the_mount_refuses_can_still_be_read(liar: Liar, name: str) -> None:
    AT_MOUNT[name](liar)
    volume = Volume.open(liar.path, Options(read_only=True))
    try:
        assert volume.image.passed_over
        description = describe_recovery(volume)
        assert description is not None
        assert description.startswith("passed over: ")
        small = volume.inode(liar.inodes["small1"].ino)
        assert len(volume.read(small.ino, 0, 1)) == 1
        walk(volume, Refused())
    finally:
        volume.abandon()


# -- lies that a call finds ----------------------------------------------------------------------

Call = Callable[[Volume, dict[str, Any]], object]


def _all_names(ino: str) -> Call:
    return lambda v, i: list(v.readdir(i[ino].ino))


def _words(runs: list[Run]) -> tuple[int, ...]:
    words = encode_runs(runs)
    return (*words, *[0] * (MAP_WORDS - len(words)))


def _unlink(name: str) -> Call:
    return lambda v, i: v.unlink(ROOT_INO, name.encode())


IN_USE: dict[str, tuple[Callable[[Liar], None], Call]] = {
    "a leaf that is deeper than its place": (
        lambda x: x.lie(DIRECTORY_LEAF, x.leaf("root"), depth=54),
        _all_names("root"),
    ),
    "a leaf of another prefix": (
        lambda x: x.lie(DIRECTORY_LEAF, x.leaf("wide"), prefix=1 << 61),
        _all_names("wide"),
    ),
    "a leaf with names behind its page": (
        lambda x: x.lie(DIRECTORY_LEAF, x.leaf("folder"), heap=0x1F4C),
        _all_names("folder"),
    ),
    "a leaf with more slots than a page has": (
        lambda x: x.lie(DIRECTORY_LEAF, x.leaf("folder"), slots=255),
        lambda v, i: v.create(i["folder"].ino, b"new", REGULAR),
    ),
    "an empty name": (lambda x: x.slot("folder", 0, name_bytes=0), _all_names("folder")),
    "a name behind its page": (
        lambda x: x.slot("folder", 0, name_offset=4095, name_bytes=9),
        _all_names("folder"),
    ),
    "a name with a slash": (
        lambda x: x.file.write(x.leaf("folder") + PAGE_BYTES - 3, b"/"),
        _all_names("folder"),
    ),
    "a name for a free inode": (
        lambda x: x.slot("below", 0, ino=5000),
        lambda v, i: [v.lookup(i["below"].ino, e.name) for e in v.readdir(i["below"].ino)],
    ),
    "a name for an inode of another type": (
        lambda x: x.slot("folder", 1, ino=x.inodes["small1"].ino),
        lambda v, i: [v.lookup(i["folder"].ino, e.name) for e in v.readdir(i["folder"].ino)],
    ),
    "a leaf of another directory": (
        lambda x: x.map("folder", 0, x.inodes["below"].words[0]),
        lambda v, i: v.lookup(i["folder"].ino, b"below"),
    ),
    "a node that is its own child": (
        lambda x: x.file.write(
            (x.inodes["wide"].words[0] & PFN_MASK) * PAGE_BYTES,
            x.inodes["wide"].words[0].to_bytes(8, "little") * 512,
        ),
        _all_names("wide"),
    ),
    "a directory that counts fewer names": (
        lambda x: x.inode("folder", entries=0),
        lambda v, i: [
            v.unlink(i["folder"].ino, e.name)
            for e in list(v.readdir(i["folder"].ino))
            if e.type == REGULAR >> 12
        ],
    ),
    "parents in a circle": (
        lambda x: [x.inode("folder", parent=x.inodes["below"].ino)],
        lambda v, i: v.rename(ROOT_INO, b"wide", i["below"].ino, b"wide"),
    ),
    "a free chain that leads to an inode in use": (
        lambda x: x.head(x.geometry.first_inode_extent, free_first=x.inodes["small1"].ino),
        lambda v, i: v.create(ROOT_INO, b"new", REGULAR),
    ),
    "a free chain in a circle": (
        lambda x: x.free_chain_in_a_circle(),
        lambda v, i: [v.create(ROOT_INO, b"new%d" % n, REGULAR) for n in range(9)],
    ),
    "attributes that end behind their page": (
        lambda x: x.lie(
            XATTR_ENTRY,
            x.inodes["whole"].xattr * PAGE_BYTES + XATTR_PAGE.size_bytes,
            (XATTR_PAGE, x.inodes["whole"].xattr * PAGE_BYTES),
            value_bytes=0xFFFE,
        ),
        lambda v, i: v.listxattr(i["whole"].ino),
    ),
    "a run whose second page is not its own": (
        lambda x: x.inode(
            "small1", map=_words([(0, 2, page_of(x.inodes["small1"]), False)]), pages=2, size=8192
        ),
        lambda v, i: v.read(i["small1"].ino, 0, 8192),
    ),
    "a whole run that goes on in extents of others": (
        lambda x: x.inode(
            "whole", map=_words([(0, 8 * 512, page_of(x.inodes["whole"]), True)]), size=8 * 2 << 20
        ),
        lambda v, i: [v.read(i["whole"].ino, (at << 21) - 4096, 8192) for at in range(1, 8)],
    ),
    "attributes of another inode": (
        lambda x: x.inode("small1", xattr=x.inodes["whole"].xattr),
        lambda v, i: v.listxattr(i["small1"].ino),
    ),
    "a target on another's page": (
        lambda x: x.map("link", 0, x.inodes["whole"].xattr),
        lambda v, i: v.readlink(i["link"].ino),
    ),
    "a map of another's pages": (
        lambda x: x.inode("small1", map=x.inodes["small3"].words),
        lambda v, i: v.read(i["small1"].ino, 0, 1),
    ),
    "unlinking a map of another's pages": (
        lambda x: x.inode("small3", map=x.inodes["small4"].words),
        _unlink("small3"),
    ),
    "a map of another's whole extents": (
        lambda x: x.inode("small4", map=x.inodes["whole"].words),
        _unlink("small4"),
    ),
    "writing by a map of metadata": (
        lambda x: x.map("small1", 0, x.leaf("root") // PAGE_BYTES | 1 << 48),
        lambda v, i: v.write(i["small1"].ino, 0, b"x"),
    ),
    "a run that leaves its extent": (
        lambda x: x.map("small1", 0, page_of(x.inodes["small1"]) | 600 << 48),
        lambda v, i: v.inode(i["small1"].ino),
    ),
    "a map node of another file": (
        lambda x: x.map("tree1", 0, x.inodes["whole"].xattr),
        lambda v, i: v.read(i["tree1"].ino, 0, 1),
    ),
    "a map node that is its own child": (
        lambda x: x.file.write(
            x.first_node("tree2") * PAGE_BYTES, x.first_node("tree2").to_bytes(8, "little") * 512
        ),
        lambda v, i: v.read(i["tree2"].ino, 20 * GIB, 1),
    ),
    "a map node that is its own child, walked from the end": (
        lambda x: x.file.write(
            x.first_node("tree2") * PAGE_BYTES, x.first_node("tree2").to_bytes(8, "little") * 512
        ),
        _unlink("tree2"),
    ),
    "a tree of nothing": (
        lambda x: x.file.write(x.first_node("tree1") * PAGE_BYTES, bytes(PAGE_BYTES)),
        lambda v, i: v.seek(i["tree1"].ino, 0, data=True),
    ),
    "owner words that its head does not count": (
        lambda x: x.owner(page_of(x.inodes["small1"]) | 511, 77),
        lambda v, i: v.write(i["small1"].ino, 3 * PAGE_BYTES, b"x"),
    ),
    "a mode that is none": (
        lambda x: x.inode("small1", mode=0o030644),
        lambda v, i: v.inode(i["small1"].ino),
    ),
    "a size beyond the largest": (
        lambda x: x.inode("small1", size=1 << 60),
        lambda v, i: v.inode(i["small1"].ino),
    ),
}


@pytest.mark.parametrize("name", IN_USE)
def test_a_lie_that_a_call_finds(liar: Liar, name: str) -> None:
    lie, call = IN_USE[name]
    lie(liar)
    found = findings_of(liar.path)
    assert found
    volume = Volume.open(liar.path)
    try:
        with pytest.raises(PmemfsError) as caught:
            call(volume, liar.inodes)
        assert caught.value.errno == errno.EUCLEAN
        assert volume.read(liar.inodes["whole"].ino, 0, 5000), "others can still be read"
    finally:
        volume.abandon()
    assert len(findings_of(liar.path)) <= len(found), "and it is no worse than it was"


def _chunk_that_counts_none(liar: Liar) -> None:
    extent = 20
    liar.file.write(extent_to_offset(extent), liar.file.read(liar.inodes["small1"].offset, 256))
    liar.head(extent, kind=Kind.INODES, index=1, used=0, frontier=1)


def _extent_that_counts_none(liar: Liar) -> None:
    liar.head(pfn_to_extent(page_of(liar.inodes["small1"])), used=0)


@pytest.mark.parametrize("lie", [_chunk_that_counts_none, _extent_that_counts_none])
def test_only_what_is_empty_is_released(liar: Liar, lie: Callable[[Liar], None]) -> None:
    """The head says that nothing of the extent is in use, but something is."""
    lie(liar)
    volume = Volume.open(liar.path)
    try:
        with pytest.raises(PmemfsError) as caught:
            release_all(volume)
        assert caught.value.errno == errno.EUCLEAN
    finally:
        volume.abandon()


def test_attributes_changed_twice_in_one_transaction(liar: Liar) -> None:
    """The second change reads what the first has made, which is not on the device yet."""
    with Volume.open(liar.path) as volume:
        ino = volume.lookup(ROOT_INO, b"preallocated").ino
        acl = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff")
        acl += bytes.fromhex("10000400ffffffff20000000ffffffff")
        volume.setxattr(ino, b"system.posix_acl_access", acl)
        assert b"security.capability" in volume.listxattr(ino)
        volume.setattr(ino, uid=5, mode=0o600)
        assert volume.listxattr(ino) == [b"system.posix_acl_access"]
        mask = volume.getxattr(ino, b"system.posix_acl_access")[-16:-8]
        assert mask == bytes.fromhex("10000000ffffffff"), "the list follows the mode"


def test_a_device_number_with_too_many_bits(liar: Liar) -> None:
    """Refused by the mount, so found by fsck; mended by leaving them out."""
    with Volume.open(liar.path) as volume:
        volume.create(ROOT_INO, b"device", stat.S_IFCHR | 0o600, rdev=0x10303)
        liar.inodes["device"] = volume.lookup(ROOT_INO, b"device")
    liar.inode("device", rdev=0x300_0001_0303)
    with (
        Volume.open(liar.path, Options(read_only=True)) as volume,
        pytest.raises(PmemfsError, match="impossible device number"),
    ):
        volume.lookup(ROOT_INO, b"device")
    (finding,) = findings_of(liar.path)
    assert "inode-fields" in finding
    repair(liar.path, decide=everything)
    assert not findings_of(liar.path)
    with Volume.open(liar.path) as volume:
        assert volume.lookup(ROOT_INO, b"device").rdev == 0x10303


@pytest.mark.parametrize("lock", ["shared", "exclusive", "none"])
def test_what_is_no_image_is_let_go_of(tmp_path: Path, lock: Lock) -> None:
    path = tmp_path / "no.img"
    path.write_bytes(bytes(1 << 26))
    for call in (lambda: Image.open(path, lock=lock), lambda: repair(path)):
        with pytest.raises(PmemfsError, match="no usable pmemfs image"):
            call()
        gc.collect()
        assert not list(iter_kept(path))
