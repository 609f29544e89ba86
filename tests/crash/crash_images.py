"""Cases of whatever stores to an image by itself: mounts, and repairs.

To add one, write a function that returns a `Recording`, most simply by `record_image`:

    @image_case
    def leaf_mended() -> Recording:
        base = damaged(...)                                # a SparseImage
        mend = functools.partial(repair, decide=everything)
        return record_image(
            NOBODYS, base, lambda path, device_class: mend(path, device_class=device_class),
            recover=mend,
        )

It is recorded as it stores to ``base``, crashed everywhere, and ``recover`` is called with the
path of each crashed image: what it leaves must be clean, usable, and show the tree that it makes
of ``base`` without a crash. Without ``recover`` a mount has to be enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from crash_case import (
    SECOND,
    SIZE,
    Case,
    Recording,
    events_of,
    load,
    materialised,
    prepared,
    record_image,
    record_mount,
    tree_at,
)
from crash_setups import tree
from crash_tree import Allowed

from pmemfs.device import MappedDevice, SparseImage
from pmemfs.errors import DamagedImageError
from pmemfs.fs.format import format_image
from pmemfs.fs.volume import Volume
from pmemfs.fsck import check, repair
from pmemfs.fsck.repair import only_safe
from pmemfs.image import Image
from pmemfs.layout.geometry import PAGE_BYTES, SUPERBLOCK_OFFSET
from pmemfs.layout.records import SUPERBLOCK

NOBODYS = Case("image", tree, lambda volume: None)
"""The case that recordings of images refer to: how to mount them to look."""

IMAGE_CASES: dict[str, Callable[[], Recording]] = {}


def image_case(function: Callable[[], Recording]) -> Callable[[], Recording]:
    """Register a recording under the name of the function that makes it."""
    IMAGE_CASES[function.__name__.replace("_", "-")] = function
    return function


def left_by(leave: Callable[[Volume], None]) -> SparseImage:
    """Return the image of some files that ``leave`` has left."""
    with prepared(NOBODYS) as (fd, volume, _):
        leave(volume)
        return load(fd)


@image_case
def mount_clean() -> Recording:
    return record_mount(NOBODYS, left_by(Volume.close))


@image_case
def mount_unclean() -> Recording:
    return record_mount(NOBODYS, left_by(Volume.abandon))


@image_case
def superblock_mended() -> Recording:
    """The first superblock is lost, and stored again from its copy."""
    base = left_by(Volume.close)
    base.punch(SUPERBLOCK_OFFSET, PAGE_BYTES)

    def mend(path: str, device_class: type[MappedDevice] = MappedDevice) -> None:
        image = Image(os.open(path, os.O_RDWR), path, device_class=device_class)
        copy = image.geometry.backup_superblock_offset
        data = bytes(image.device.view[copy : copy + SUPERBLOCK.size_bytes])
        image.device.store(SUPERBLOCK_OFFSET, data)
        image.device.flush(SUPERBLOCK_OFFSET, len(data))
        image.device.fence()
        image.close()

    return record_image(NOBODYS, base, mend, recover=mend)


@image_case
def mkfs() -> Recording:
    """Leaves no image, or a whole one; until it is done, one superblock of two may be missing."""
    blank = SparseImage(SIZE)

    def make(path: str, device_class: type[MappedDevice] = MappedDevice) -> None:
        format_image(
            path,
            SIZE,
            force=True,
            entropy=lambda n: bytes(range(n)),
            now_ns=lambda: SECOND,
            device_class=device_class,
        )

    with materialised(blank) as path:
        events = events_of(lambda device_class: make(path, device_class))
        made = tree_at(path, NOBODYS)
    allowed = Allowed([made], [0])
    return Recording(NOBODYS, blank, events, allowed, recover=mend_superblock, refuses=is_no_image)


def is_no_image(path: str) -> bool:
    """Tell whether nobody takes a file for an image."""
    try:
        Image.open(path, lock="shared").close()
    except DamagedImageError:
        return True
    return False


def mend_superblock(path: str) -> None:
    """Store the superblock that is missing, if one is; nothing else may be wrong."""
    image = Image.open(path, lock="shared")
    findings = {finding.check for finding in check(image).findings}
    image.close()
    assert findings <= {"superblock-copy"}, findings
    if findings:
        assert repair(path, decide=only_safe).is_complete
