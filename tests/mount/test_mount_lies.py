"""Images that lie, on a real mount: errors for the callers, and a daemon that goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount_run import NEEDS_MOUNT, Mounted, outcome, scratch

from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import MAX_FILE_BYTES, PAGE_BYTES
from pmemfs.layout.records import DIRECTORY_LEAF, DIRECTORY_SLOT, INODE, seal

pytestmark = NEEDS_MOUNT

EXTREMES = {
    "early": {"atime_ns": -(1 << 63), "mtime_ns": -(1 << 63), "ctime_ns": -1, "btime_ns": -1},
    "late": {"atime_ns": (1 << 63) - 1, "mtime_ns": (1 << 63) - 1, "ctime_ns": (1 << 63) - 1},
    "large": {"size": MAX_FILE_BYTES},
    "owned": {"uid": (1 << 32) - 2, "gid": (1 << 32) - 2},
    "linked": {"nlink": (1 << 32) - 1},
    "device": {"mode": 0o020600, "rdev": (1 << 32) - 1, "size": 0},
    "flagged": {"flags": (1 << 32) - 1},
}


@pytest.fixture(scope="module", params=["fusepy", "native"])
def lying(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """A mount whose files have extreme attributes, and two directories that are damaged."""
    through = type("Through", (Mounted,), {"frontend": request.param})
    with scratch() as folder:
        one = through(folder)
        tell_lies(one.image)
        try:
            one.mount("allow_other")
            yield one
            one.umount()
        finally:
            one.clean_up()


def tell_lies(image: Path) -> None:
    with Volume.open(image) as volume:
        inodes = {n: volume.create(ROOT_INO, n.encode(), 0o100644) for n in [*EXTREMES, "lost"]}
        leaves = []
        for name in (b"gone", b"slash"):
            inner = volume.mkdir(ROOT_INO, name, 0o755)
            volume.create(inner.ino, b"a/b".replace(b"/", b"_"), 0o100644)
            leaves.append(inner.words[0] * PAGE_BYTES)
    with open(image, "r+b") as file:
        for name, fields in EXTREMES.items():
            file.seek(inodes[name].offset)
            record = INODE.unpack(file.read(INODE.size_bytes)) | fields
            del record["checksum"]
            file.seek(inodes[name].offset)
            file.write(seal(INODE, **record))
        file.seek(inodes["lost"].offset)
        file.write(b"\xff" * INODE.size_bytes)
        at = DIRECTORY_LEAF.size_bytes + DIRECTORY_SLOT.offset_of["ino"]
        file.seek(leaves[0] + at)
        file.write((5000).to_bytes(4, "little"))
        file.seek(leaves[1] + PAGE_BYTES - 2)
        file.write(b"/")


@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_attributes_are_shown(lying: Mounted, name: str) -> None:
    """Whatever the kernel makes of them, it is an answer, and the next one comes, too."""
    path = lying.directory / name
    for call in (os.lstat, os.listxattr, os.readlink, lambda p: os.utime(p, ns=(5, 5))):
        result = outcome(lambda _, c=call: c(path), "")
        assert result not in ("EIO", "ENOTCONN", "ECONNABORTED"), (call, result)
    assert name in os.listdir(lying.directory)


def test_damage_is_an_error_of_its_own(lying: Mounted) -> None:
    top = lying.directory
    for path in (top / "lost", top / "gone" / "a_b"):
        with pytest.raises(OSError, match="Structure needs cleaning") as caught:
            os.stat(path)
        assert caught.value.errno == errno.EUCLEAN
    with pytest.raises(OSError, match="Structure needs cleaning"):
        os.listdir(top / "slash")
    assert (top / "early").exists(), "and what is in order can be used"
    text = lying.log.read_text()
    assert "run pmemfs fsck" in text
    assert "Traceback" not in text
    assert "unexpected" not in text
