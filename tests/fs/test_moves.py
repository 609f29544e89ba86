"""Moves of pages, one by one; how compaction uses them is for `test_reclaimer`."""

from __future__ import annotations

from volumes import REGULAR, VolumeBed

from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import PAGE_BYTES, pfn_to_extent


def test_a_list_of_runs_that_becomes_a_tree_between_two_runs_of_a_move(bed: VolumeBed) -> None:
    """The second run is looked up in a map whose nodes have no owner word yet."""
    volume = bed.make(threshold_pages=512)
    holes = [volume.create(ROOT_INO, b"hole%d" % n, REGULAR).ino for n in range(511)]
    for ino in holes:
        volume.write(ino, 0, b"x" * PAGE_BYTES)
    file, other = (volume.create(ROOT_INO, name, REGULAR).ino for name in (b"file", b"other"))
    volume.write(file, 0, b"f" * 2 * PAGE_BYTES)
    for page in range(2, 18):
        volume.write(other, page * PAGE_BYTES, b"o" * PAGE_BYTES)
        volume.write(file, page * PAGE_BYTES, b"f" * PAGE_BYTES)
    runs = volume.inode(file).runs
    assert runs is not None
    assert len(runs) == 17
    for n in range(0, 511, 2):  # no two pages side by side
        volume.unlink(ROOT_INO, b"hole%d" % n)
    volume.data_arenas.retire()
    assert volume.moves is not None
    assert volume.moves.move_out(pfn_to_extent(runs[0][2])) == 34
    assert volume.inode(file).runs is None
    assert not volume.is_read_only
    assert b"".join(volume.read(file, 0, 18 * PAGE_BYTES)) == b"f" * 18 * PAGE_BYTES
    assert b"".join(volume.read(other, 2 * PAGE_BYTES, 16 * PAGE_BYTES)) == b"o" * 16 * PAGE_BYTES
