"""What a crash left in FREE extents is gone when the image is closed as clean."""

from __future__ import annotations

import stat

from pmemfs.fs import Options, Volume
from pmemfs.fs import volume as volume_module
from pmemfs.fsck import check
from pmemfs.image import Image
from pmemfs.layout.geometry import EXTENT_BYTES, ROOT_INO


def test_suspect_extents_are_discarded_even_when_the_close_discards_no_more(tmp_path, monkeypatch):
    path = tmp_path / "disk.img"
    Volume.format(path, 64 << 20)
    volume = Volume.open(path, Options())
    inode = volume.create(ROOT_INO, b"f", stat.S_IFREG | 0o600)
    volume.write(inode.ino, 0, bytes(4 * EXTENT_BYTES))
    volume.device.back(30 * EXTENT_BYTES, 8)
    volume.device.store(30 * EXTENT_BYTES, b"leftover")
    volume.abandon()

    monkeypatch.setattr(volume_module, "_DISCARD_AT_CLOSE", 0)
    with Volume.open(path) as volume:
        volume.unlink(ROOT_INO, b"f")
    image = Image.open(path, lock="shared")
    report = check(image)
    image.close()
    assert report.is_clean, report.findings
