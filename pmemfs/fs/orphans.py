"""The orphan list: what is still to be freed after its name or its size is gone.

On it stand inodes without a name that something holds, those whose data is too much for one
transaction, and files cut shorter by more than one transaction can free (these keep their names).
The list is on the device, a chain from ``Control.orphan_first`` through ``Inode.next``, so a crash
loses nothing of it. Each `work` is one bounded transaction that allocates nothing; the last of an
inode frees it and takes it off the list.
"""

from __future__ import annotations

from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.fs.files import Files, pages_of
from pmemfs.fs.inodes import Inode, InodeTable
from pmemfs.image import Image
from pmemfs.journal import Journal, Transaction
from pmemfs.layout.geometry import CONTROL_OFFSET
from pmemfs.layout.records import CONTROL, INODE, MapKind, Role
from pmemfs.layout.words import owner_word
from pmemfs.pages import ExtentPool
from pmemfs.pages.arenas import free_metadata

_FIRST_OFFSET = CONTROL_OFFSET + CONTROL.offset_of["orphan_first"]


class Orphans:
    """The orphan list of a volume."""

    def __init__(
        self,
        image: Image,
        journal: Journal,
        pool: ExtentPool,
        inodes: InodeTable,
        files: Files,
    ) -> None:
        self._device = image.device
        self._journal = journal
        self._pool = pool
        self._inodes = inodes
        self._files = files
        self._before: dict[int, int] = {}  # inode: the one before it on the list, 0 for the first
        self._first = 0
        try:
            self._load()
        except DamagedImageError as error:
            image.refuse(error)

    def _load(self) -> None:
        """Read the list from the device, also after an aborted transaction."""
        self._before.clear()
        before, ino = 0, self._device.words[_FIRST_OFFSET >> 3]
        self._first = ino
        while ino:
            if ino in self._before:
                raise DamagedImageError("the orphan list runs in a circle", _FIRST_OFFSET)
            inode = self._listed(ino)
            self._before[ino] = before
            next_offset = inode.offset + INODE.offset_of["next"]
            before, ino = (
                ino,
                int.from_bytes(self._device.view[next_offset : next_offset + 4], "little"),
            )

    def _listed(self, ino: int) -> Inode:
        """Return an inode that the list names: with names only a file, and never with entries."""
        try:
            inode = self._inodes.get(ino)
        except PmemfsError as error:
            raise DamagedImageError(f"the orphan list is damaged: {error}") from error
        if (inode.nlink and not inode.is_file) or (inode.is_dir and inode.entries):
            raise DamagedImageError(f"inode {ino} cannot be on the orphan list", inode.offset)
        return inode

    def __len__(self) -> int:
        return len(self._before)

    def __contains__(self, inode: Inode) -> bool:
        return inode.ino in self._before

    def _set_first(self, tx: Transaction, ino: int) -> None:
        tx.put(_FIRST_OFFSET, ino.to_bytes(8, "little"))
        self._first = ino

    def add(self, tx: Transaction, inode: Inode) -> None:
        """Put an inode on the list, and into the transaction."""
        if inode in self:
            return
        tx.undo.append(self._load)
        inode.next = self._first
        if self._first:
            self._before[self._first] = inode.ino
        self._before[inode.ino] = 0
        self._set_first(tx, inode.ino)
        self._inodes.put(tx, inode)

    def take_off(self, tx: Transaction, inode: Inode) -> None:
        """Take an inode off the list; the caller guards and puts it."""
        tx.undo.append(self._load)
        before = self._before.pop(inode.ino)
        if inode.next:
            self._before[inode.next] = before
        if before:
            previous = self._inodes.get(before)
            self._inodes.guard(tx, previous)
            previous.next = inode.next
            self._inodes.put(tx, previous)
        else:
            self._set_first(tx, inode.next)
        inode.next = 0

    # -- freeing -----------------------------------------------------------------------------

    def drop(self, tx: Transaction, inode: Inode) -> None:
        """Deal with an inode that has just lost its last name, within the same transaction.

        Frees it if nothing holds it and that fits in; else it goes on the list.
        """
        if inode.ino in self._inodes.holds or not self._free_content(tx, inode):
            self.add(tx, inode)
        else:
            self._inodes.free(tx, inode)

    def cut(self, tx: Transaction, inode: Inode) -> bool:
        """Free what lies behind the new size of a file, or put it on the list for that.

        Tell whether all is gone. What is left of a file without a name must be cut by `trim`
        before the file grows again: its place on the list stands for all of it.
        """
        if self._files.free_from(tx, inode, pages_of(inode.size)):
            return True
        self.add(tx, inode)
        return False

    def _free_content(self, tx: Transaction, inode: Inode) -> bool:
        """Free data and metadata pages of a nameless inode; tell whether all are gone."""
        if inode.is_file and not self._files.free_from(tx, inode, 0):
            return False
        if inode.is_symlink and inode.map_kind == MapKind.RUNS:
            word = owner_word(inode.ino, Role.SYMLINK)
            free_metadata(self._pool, tx, inode.words[0], word)
        if inode.xattr:
            free_metadata(self._pool, tx, inode.xattr, owner_word(inode.ino, Role.XATTR))
        return True

    def workable(self) -> Inode | None:
        """Return an inode that `work` can go on with, or None."""
        for ino in self._before:
            inode = self._inodes.get(ino)
            if inode.nlink or ino not in self._inodes.holds:
                return inode
        return None

    def work(self, inode: Inode) -> None:
        """Do one bounded transaction for an inode on the list."""
        with self._journal.transaction() as tx:
            self._inodes.guard(tx, inode)
            if inode.nlink:
                done = self._files.free_from(tx, inode, pages_of(inode.size))
            else:
                done = self._free_content(tx, inode)
            if done:
                self.take_off(tx, inode)
            if done and not inode.nlink:
                self._inodes.free(tx, inode)
            else:
                self._inodes.put(tx, inode)

    def finish(self, inode: Inode) -> None:
        """Work until the inode is off the list."""
        while inode in self:
            self.work(inode)

    def finish_cut(self, inode: Inode) -> None:
        """Finish the truncation of a file that has a name, before it changes in size again."""
        if inode.nlink:
            self.finish(inode)

    def trim(self, inode: Inode) -> None:
        """Free all that lies behind the size of a file; it stays on the list or off it."""
        done = False
        while not done:
            with self._journal.transaction() as tx:
                self._inodes.guard(tx, inode)
                done = self._files.free_from(tx, inode, pages_of(inode.size))
                self._inodes.put(tx, inode)
