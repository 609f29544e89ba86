"""Check one image from the superblock to the last page: the order of the passes.

Each pass fills tables that later ones look into before they follow a number: kinds of extents,
owner words, inodes. Nothing is followed that an earlier pass has not found to exist, and every
page is entered once; so the work is bounded by what the image really holds.

The image is never written: a transaction that was left is replayed in the private mapping.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import numpy as np

from pmemfs.errors import PmemfsError
from pmemfs.fsck.directories import DirectoryChecker
from pmemfs.fsck.fields import check_fields
from pmemfs.fsck.heads import ExtentTable, Tick, check_free_extents, check_heads
from pmemfs.fsck.inodes import (
    DIRECTORY,
    REGULAR,
    SYMLINK,
    Chunk,
    InodeTable,
    check_inodes,
    check_orphan_list,
    find_chunks,
)
from pmemfs.fsck.journal import read_transaction, replay
from pmemfs.fsck.links import check_directory_links, check_links, check_parents
from pmemfs.fsck.maps import MapChecker, MapTotals, check_runs, check_totals
from pmemfs.fsck.owners import OwnerPages, check_owner_pages, check_unclaimed
from pmemfs.fsck.report import Finding, Report
from pmemfs.fsck.superblock import check_control, check_superblock
from pmemfs.fsck.symlinks import check_symlinks
from pmemfs.fsck.trees import check_trees
from pmemfs.fsck.xattrs import check_xattrs
from pmemfs.image import Image
from pmemfs.layout.geometry import PAGES_PER_EXTENT
from pmemfs.layout.records import NOTHING_TO_REPLAY, Kind, MountState

Progress = Callable[[str, int, int], None]


def check(image: Image, progress: Progress | None = None) -> Report:
    """Check an image that was opened ``shared``; never raises for what the image says.

    ``progress`` is called with the name of a pass, how much of it is done, and how much there
    is. Raises `PmemfsError` with ENOMEM when the tables do not fit into memory, and
    `DamagedImageError` when the image has been cut short meanwhile.
    """
    try:
        return Checker(image, progress).run()
    except MemoryError as error:
        raise PmemfsError(errno.ENOMEM, f"not enough memory to check {image.name}") from error


class Checker:
    """The tables of one check, made pass by pass.

    ``extents``, ``owners`` and ``inodes`` are empty until the passes have run that fill them. With
    ``to_mend`` the report has the subjects of all findings.
    """

    def __init__(
        self, image: Image, progress: Progress | None = None, *, to_mend: bool = False
    ) -> None:
        self.image = image
        self.progress = progress
        self.report = Report(image.name, image.geometry.n_extents)
        self.report.subjects = {} if to_mend else None
        self.extents = ExtentTable(image.geometry)
        self.owners = OwnerPages(image, self.extents)
        self.inodes = InodeTable([])

    def run(self, *, until_damaged: bool = False) -> Report:
        """Run all passes in order; with ``until_damaged`` not those above the first damage.

        Raises `DamagedImageError` when the image has been cut short: what is gone read as zeros.
        """
        self._run_passes(until_damaged)
        self.image.device.validate_length()
        return self.report

    def _run_passes(self, until_damaged: bool) -> None:
        for layer in (
            self._check_words_of_mount,
            self._check_extents,
            self._check_inodes,
            self._check_pages,
            self._check_tree,
            self._check_free,
        ):
            layer()
            if until_damaged and not self.report.is_clean:
                return
        self._count()

    def _check_words_of_mount(self) -> None:
        self.report.add(check_superblock(self.image))
        self.report.add(check_control(self.image))
        self.report.add(self._replay())

    def _check_extents(self) -> None:
        self.report.add(check_heads(self.image, self.extents, self._tick("heads")))
        self.owners = OwnerPages(self.image, self.extents)
        self.report.add(check_owner_pages(self.owners, self._tick("owner pages")))

    def _check_pages(self) -> None:
        self._check_maps()
        tick = self._tick("owners")
        unclaimed = check_unclaimed(self.image, self.extents, self.owners, self.inodes, tick)
        self.report.add(unclaimed)

    def _check_tree(self) -> None:
        self.report.add(check_links(self.inodes))
        self.report.add(check_directory_links(self.inodes))
        self.report.add(check_parents(self.image, self.inodes, self._tick("links")))

    def _check_free(self) -> None:
        if self.report.was_closed:
            # after a crash, operations that did not commit may have stored into free extents
            tick = self._tick("free extents")
            self.report.add(check_free_extents(self.image, self.extents, tick))

    def _tick(self, name: str) -> Tick:
        progress = self.progress
        if progress is None:
            return lambda done, total: None
        return lambda done, total: progress(name, done, total)

    def _replay(self) -> Iterator[Finding]:
        state = self.image.control()["state"]
        self.report.was_closed = state == MountState.CLEAN
        self.report.was_damaged = state == MountState.DAMAGED
        transaction = yield from read_transaction(self.image)
        if transaction is not None:
            replay(self.image, transaction)
            self.report.replayed = transaction.sequence
            self.report.replayed_entries = len(transaction.redos)

    def _check_inodes(self) -> None:
        chunks: list[Chunk] = []
        self.report.add(find_chunks(self.image, self.extents, chunks))
        self.inodes = InodeTable(chunks)
        self.report.add(check_inodes(self.image, self.inodes, self._tick("inodes")))
        self.report.add(check_orphan_list(self.image, self.inodes, self._tick("orphans")))
        sequence = self.image.control()["committed"] & ~NOTHING_TO_REPLAY
        for row, chunk in enumerate(self.inodes.chunks):
            self.report.add(check_fields(self.inodes, row, chunk.read(self.image), sequence))

    def _check_maps(self) -> None:
        maps = MapChecker(self.image, self.extents, self.owners)
        seed = self.image.superblock["hash_seed"]
        directories = DirectoryChecker(self.owners, self.inodes, seed)
        tick = self._tick("files and directories")
        for row, chunk in enumerate(self.inodes.chunks):
            tick(row, len(self.inodes.chunks))
            self.report.add(self._check_chunk(row, chunk, maps, directories))

    def _check_chunk(
        self, row: int, chunk: Chunk, maps: MapChecker, directories: DirectoryChecker
    ) -> Iterator[Finding]:
        records = chunk.read(self.image)
        types = self.inodes.type[self.inodes.rows_of(row)]
        totals = MapTotals.empty(len(records))
        yield from check_runs(maps, chunk, types, records, totals)
        yield from check_trees(maps, chunk, types, records, totals)
        yield from check_symlinks(self.owners, chunk, types, records)
        yield from check_totals(self.inodes, row, records, totals)
        yield from check_xattrs(self.owners, chunk, types, records)
        yield from directories.check_chunk(chunk, types, records)

    def _count(self) -> None:
        report, types = self.report, self.inodes.type
        report.files = int(np.count_nonzero(types == REGULAR))
        report.directories = int(np.count_nonzero(types == DIRECTORY))
        report.symlinks = int(np.count_nonzero(types == SYMLINK))
        in_use = int(np.count_nonzero(types))
        report.others = in_use - report.files - report.directories - report.symlinks
        report.orphans = int(np.count_nonzero(self.inodes.listed))
        report.extents = self.extents.count_by_kind()
        whole = int(np.count_nonzero(self.extents.kind == Kind.WHOLE))
        report.pages_used = whole * PAGES_PER_EXTENT + int(self.owners.used.sum())
