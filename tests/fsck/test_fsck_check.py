"""The checker as a whole: it replays in memory, never writes, and survives any garbage."""

from __future__ import annotations

import hashlib
import os
import random
import time
from pathlib import Path

import fsck_image as fi
import numpy as np
import pytest
from fsck_image import HandImage

from pmemfs.errors import DamagedImageError
from pmemfs.fsck.maps import FIRST_ROUND
from pmemfs.fsck.report import KEPT_PER_CHECK, Finding, Report, show_name
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    INODE_BYTES,
    INODES_PER_EXTENT,
    PAGE_BYTES,
    extent_to_offset,
    extent_to_pfn,
    inode_offset,
    pfn_to_offset,
)
from pmemfs.layout.records import CONTROL, INODE, Kind, MapKind, seal
from pmemfs.layout.words import owner_word

SECONDS_LIMIT = 20


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- replay --------------------------------------------------------------------------------------


def test_a_transaction_is_replayed_in_memory(image: HandImage) -> None:
    """The home stores of a committed transaction are missing; the host file stays as it is."""
    broken = image.peek(inode_offset(fi.INODES, fi.FILE), INODE_BYTES)
    fields = INODE.unpack(broken) | {"nlink": 2}
    image.patch_inode(fi.FILE, nlink=9)
    image.set_transaction(6, [(inode_offset(fi.INODES, fi.FILE), seal(INODE, **fields))])
    before = digest(image.path)
    report = image.check()
    assert report.is_clean, report.findings
    assert (report.was_closed, report.replayed, report.replayed_entries) == (False, 6, 1)
    assert digest(image.path) == before


def test_zeros_are_replayed(image: HandImage) -> None:
    image.set_word(fi.TREE_NODE, 9, fi.FREE_SMALL_PFN)
    image.set_transaction(6, [(pfn_to_offset(fi.TREE_NODE) + 72, 8)])
    assert image.check().is_clean


def test_nothing_to_replay_on_an_image_that_was_not_closed(image: HandImage) -> None:
    image.patch_control(state=1)
    report = image.check()
    assert report.is_clean
    assert (report.was_closed, report.replayed) == (False, None)


def test_data_in_free_extents_is_right_after_a_crash(image: HandImage) -> None:
    image.poke(extent_to_offset(30), b"of an operation that did not commit")
    image.patch_control(state=1)
    assert image.check().is_clean


def test_a_damaged_transaction_is_not_replayed(image: HandImage) -> None:
    changes: list[tuple[int, bytes | int]] = [(inode_offset(fi.INODES, fi.FILE), b"garbage!")]
    image.set_transaction(6, [*changes, (1 << 62, b"")])
    report = image.check()
    assert report.replayed is None
    assert set(report.counts) == {"journal-home"}


# -- never writes --------------------------------------------------------------------------------


def test_check_leaves_file_and_host_space_alone(image: HandImage) -> None:
    image.set_head(12, Kind.SMALL, used=3)  # its owner page is a hole of the host
    image.set_head(13, Kind.INODES, index=7, used=3, frontier=INODES_PER_EXTENT)
    image.patch_inode(fi.DIR, map=[fi.FREE_META_PFN + 400])
    before, blocks = digest(image.path), os.stat(image.path).st_blocks
    assert not image.check().is_clean
    assert digest(image.path) == before
    assert os.stat(image.path).st_blocks <= blocks


def test_neither_superblock_is_good(image: HandImage) -> None:
    image.poke(0, bytes(512))
    image.poke(image.geometry.backup_superblock_offset, bytes(512))
    with pytest.raises(DamagedImageError):
        image.check()


# -- the bounds ----------------------------------------------------------------------------------


def test_findings_are_kept_within_bounds(image: HandImage) -> None:
    for extent in range(10, 32):
        image.set_head(extent, Kind.SMALL, used=511)
        for_no_inode = np.full(511, owner_word(5000, 1), "<u8")
        image.poke(extent_to_offset(extent) + 8, for_no_inode.tobytes())
    report = image.check()
    assert report.counts["owner-inode"] == 22 * 511
    assert len(report.findings) == KEPT_PER_CHECK
    assert report.dropped() == {"owner-inode": 22 * 511 - KEPT_PER_CHECK}


def test_names_in_findings_are_escaped(image: HandImage) -> None:
    name = b"\x1b[31m\n\xff\xe2\x80\xae/"
    page = fi.leaf_page(fi.DIR, [(name, fi.FIFO, 0o010000)])
    image.set_page(fi.DIR_LEAF, page)
    (finding,) = image.check().findings
    assert finding.check == "dir-name"
    assert str(finding).isprintable()
    assert "'\\x1b[31m\\n\\xff\\u202e/'" in finding.message


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain", "'plain'"),
        ("größe".encode(), "'größe'"),
        (b"a\\n", "'a\\\\n'"),
        (b"\x80", "'\\x80'"),
    ],
)
def test_show_name(name: bytes, shown: str) -> None:
    assert show_name(name) == shown


def test_finding_shows_its_offset() -> None:
    assert str(Finding("x-y", "it is so", 4096)) == "x-y: it is so (device offset 0x1000)"
    assert str(Finding("x-y", "it is so")) == "x-y: it is so"


def test_progress_names_the_passes(image: HandImage) -> None:
    from pmemfs.fsck import check
    from pmemfs.image import Image

    seen: list[str] = []
    opened = Image.open(image.path, lock="shared")
    check(opened, lambda name, done, total: seen.append(name))
    opened.close()
    assert {"heads", "owner pages", "inodes", "files and directories", "owners"} <= set(seen)


def test_huge_runs_over_one_page_do_not_cost(image: HandImage) -> None:
    """8,000 inodes say that each owns the whole device, seventeen times over."""
    first = extent_to_pfn(fi.SMALL) + 1
    words = [fi.run(first, 511 * 20)] * 17
    body = {"mode": 0o100644, "nlink": 1, "size": 1 << 40, "map": words}
    record = seal(INODE, **body)
    image.poke(inode_offset(fi.INODES, fi.FRONTIER), record * (INODES_PER_EXTENT - fi.FRONTIER))
    image.patch_head(fi.INODES, frontier=INODES_PER_EXTENT)
    begin = time.process_time()
    report = image.check()
    assert time.process_time() - begin < SECONDS_LIMIT
    assert report.counts["map-owner"] <= 17 * INODES_PER_EXTENT * FIRST_ROUND


def test_a_long_run_with_one_bad_page_gives_one_finding(image: HandImage) -> None:
    image.set_head(12, Kind.SMALL, used=500)
    pages = [owner_word(fi.FREED_B, index) for index in range(500)]
    pages[0] = owner_word(fi.FREED_B, 1 << 20)
    image.poke(extent_to_offset(12) + 8, np.array(pages, "<u8").tobytes())
    run = fi.run(extent_to_pfn(12) + 1, 500)
    image.add_inode(fi.FREED_B, 0o100644, size=500 * PAGE_BYTES, pages=500, map=[run])
    image.patch_head(fi.INODES, used=11, free_first=fi.FREED_A)
    report = image.check()
    assert report.counts == {"map-owner": 1, "owner-unmapped": 1, "inode-unreachable": 1}


# -- garbage -------------------------------------------------------------------------------------


def garble(image: HandImage, rng: random.Random) -> None:
    """Store random words over metadata, and make the checksums right again where there are some."""
    metadata = extent_to_offset(fi.METADATA)
    for _ in range(rng.randint(1, 40)):
        pfn = rng.getrandbits(14)
        word = rng.choice([rng.getrandbits(64), pfn, 0, (1 << 64) - 1, pfn | 1 << 40])
        place = rng.choice(
            [
                extent_to_offset(fi.SMALL) + rng.randrange(20) * 8,
                metadata + rng.randrange(20) * 8,
                metadata + rng.randrange(9 * 512) * 8,
                CONTROL_OFFSET + rng.choice([CONTROL.offset_of["orphan_first"], 0]),
            ]
        )
        image.poke(place, word.to_bytes(8, "little"))
    for _ in range(rng.randint(0, 6)):
        name = rng.choice([name for name in INODE.offset_of if name not in ("checksum", "map")])
        image.patch_inode(rng.randrange(1, fi.FRONTIER), **{name: rng.getrandbits(8)})
        words = [rng.getrandbits(rng.choice([14, 41, 64])) for _ in range(17)]
        image.patch_inode(rng.randrange(1, fi.FRONTIER), map=words)
    for _ in range(rng.randint(0, 4)):
        fields = {"used": rng.getrandbits(9), "index": rng.getrandbits(rng.choice([2, 32]))}
        fields |= {
            "free_first": rng.getrandbits(5),
            "frontier": rng.getrandbits(rng.choice([6, 32])),
        }
        image.set_head(rng.randrange(32), rng.randrange(10), **fields)


@pytest.mark.parametrize("seed", range(60))
def test_garbage_never_raises(image: HandImage, seed: int) -> None:
    garble(image, random.Random(seed))
    begin = time.process_time()
    report = image.check()
    assert time.process_time() - begin < SECONDS_LIMIT
    assert isinstance(report, Report)
    assert all(str(finding).isprintable() for finding in report.findings)


@pytest.mark.parametrize("seed", range(4))
def test_pure_noise_never_raises(image: HandImage, seed: int) -> None:
    """All behind the first superblock is random bytes."""
    noise = np.random.default_rng(seed)
    for extent in range(image.geometry.n_extents):
        start = PAGE_BYTES if extent == 0 else 0
        image.poke(extent_to_offset(extent) + start, noise.bytes(EXTENT_BYTES - start))
    begin = time.process_time()
    assert not image.check().is_clean
    assert time.process_time() - begin < SECONDS_LIMIT


def test_tree_of_trees_ends(image: HandImage) -> None:
    """Every word of a node names the node itself, four levels high."""
    node = fi.FREE_META_PFN
    fields = {"map_kind": MapKind.TREE, "map_height": 4, "map": [node] * 17}
    image.patch_inode(fi.ORPHAN, **fields)
    image.own(node, owner_word(fi.ORPHAN, 1))
    image.set_word(node, 0, node, 512)
    assert {"page-twice", "map-word"} <= set(image.check().counts)
