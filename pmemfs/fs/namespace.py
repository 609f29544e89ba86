"""Names: create, link, unlink, rename. Each operation is one transaction.

Its commit makes the entries, link counts, times and inodes of both directories and of the file
change together, durable on return. A name that goes away takes its inode along when that is
small and unheld; else the inode goes on the orphan list in the same transaction.
"""

from __future__ import annotations

import errno
import stat

from pmemfs.errors import PmemfsError
from pmemfs.fs import acl
from pmemfs.fs.directories import Directories, Found
from pmemfs.fs.inodes import Inode, InodeTable
from pmemfs.fs.leaf import damaged_directory
from pmemfs.fs.orphans import Orphans
from pmemfs.fs.xattrs import Xattrs
from pmemfs.journal import Journal, Transaction
from pmemfs.layout.geometry import LINK_MAX, MAX_DEVICE_NUMBER, NAME_MAX, ROOT_INO, SYMLINK_MAX
from pmemfs.layout.records import INLINE_BYTES, MAP_WORDS, InodeFlag, MapKind, Role
from pmemfs.layout.words import owner_word
from pmemfs.pages import Arena
from pmemfs.pages.clock import Clock

# the arithmetic of flag classes is slow
_IMMUTABLE = int(InodeFlag.IMMUTABLE)
_DIRECTORY = stat.S_IFDIR >> 12
_FIXED = _IMMUTABLE | int(InodeFlag.APPEND)


class RenameFlag:
    """Flags of renameat2(2); plain integers, as all flags that each operation asks for."""

    NOREPLACE = 1
    EXCHANGE = 2


def validate_name(name: bytes) -> None:
    """Raise what Linux raises for a name that cannot be an entry."""
    if len(name) > NAME_MAX:
        raise PmemfsError(errno.ENAMETOOLONG, "a name is at most 255 bytes")
    if not name:
        raise PmemfsError(errno.ENOENT, "an empty name")
    if b"/" in name or b"\0" in name:
        raise PmemfsError(errno.EINVAL, "a name holds neither / nor NUL")


def require_changeable(inode: Inode, *, append_too: bool = True) -> None:
    """Raise EPERM for an immutable inode, and for an append-only one if ``append_too``."""
    if inode.flags & (_FIXED if append_too else _IMMUTABLE):
        raise PmemfsError(errno.EPERM, "immutable or append-only (see lsattr)")


def _require_linked(directory: Inode) -> None:
    """Raise ENOENT for a directory that has been removed: it has neither names nor a parent."""
    if not directory.nlink:
        raise PmemfsError(errno.ENOENT, "the directory has been removed")


def _file_type(inode: Inode) -> int:
    return inode.mode >> 12


def _require_removable(directory: Inode, inode: Inode) -> None:
    require_changeable(directory)
    require_changeable(inode)


class Namespace:
    """The tree of names of a volume."""

    def __init__(
        self,
        *,
        journal: Journal,
        inodes: InodeTable,
        directories: Directories,
        orphans: Orphans,
        xattrs: Xattrs,
        metadata: Arena,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._inodes = inodes
        self._directories = directories
        self._orphans = orphans
        self._xattrs = xattrs
        self._metadata = metadata
        self._clock = clock

    # -- finding -----------------------------------------------------------------------------

    def directory(self, ino: int) -> Inode:
        """Return an inode that must be a directory, or raise ENOTDIR."""
        inode = self._inodes.get(ino)
        if not inode.is_dir:
            raise PmemfsError(errno.ENOTDIR, "not a directory")
        return inode

    def find(self, parent: int, name: bytes) -> Inode | None:
        """Return the inode a name stands for, or None; raises ENOTDIR or ENAMETOOLONG."""
        directory = self.directory(parent)
        if name == b".":
            return directory
        if name == b"..":
            _require_linked(directory)
            return self._named(directory, directory.parent, _DIRECTORY)
        found = self._directories.find(directory, name)
        if found is None:
            validate_name(name)
            return None
        return self._named(directory, found.ino, found.type)

    def _entry(self, directory: Inode, name: bytes) -> Inode:
        """Return the inode of an entry that stands in a directory; raises ENOENT."""
        found = self._find(directory, name)
        return self._named(directory, found.ino, found.type)

    def _named(self, directory: Inode, ino: int, file_type: int) -> Inode:
        """Return the inode an entry names; `DamagedImageError` if it is free or of another type."""
        try:
            inode = self._inodes.get(ino)
        except PmemfsError as error:
            if error.errno == errno.ENOENT:
                raise damaged_directory(directory.ino) from error
            raise
        if inode.mode >> 12 != file_type:
            raise damaged_directory(directory.ino)
        return inode

    def _find(self, directory: Inode, name: bytes) -> Found:
        found = self._directories.find(directory, name)
        if found is None:
            validate_name(name)
            raise PmemfsError(errno.ENOENT, "no such name")
        return found

    def _require_absent(self, directory: Inode, name: bytes) -> None:
        validate_name(name)
        if name in (b".", b"..") or self._directories.find(directory, name) is not None:
            raise PmemfsError(errno.EEXIST, "the name exists")
        _require_linked(directory)
        require_changeable(directory, append_too=False)

    # -- making ------------------------------------------------------------------------------

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        umask: int = 0,
    ) -> Inode:
        """Make a file, directory, fifo, socket or device of that ``mode``; return its inode.

        The default list of the directory takes the place of ``umask``, where there is one.
        """
        directory = self.directory(parent)
        self._require_absent(directory, name)
        if not 0 <= rdev <= MAX_DEVICE_NUMBER:
            raise PmemfsError(errno.EINVAL, "a device number has 32 bits")
        with self._journal.transaction() as tx:
            inode = self._new_inode(tx, directory, mode, uid, gid)
            self._inherit(tx, directory, inode, umask)
            inode.rdev = rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
            if inode.is_dir:
                inode.nlink = 2
                inode.parent = parent
                inode.map_kind = MapKind.DIRECTORY
            self._add(tx, directory, name, inode)
        return inode

    def tmpfile(self, parent: int, mode: int, uid: int, gid: int, umask: int = 0) -> Inode:
        """Make a file without a name, on the orphan list; `link` can give it one."""
        directory = self.directory(parent)
        require_changeable(directory, append_too=False)
        with self._journal.transaction() as tx:
            inode = self._new_inode(tx, directory, mode, uid, gid)
            self._inherit(tx, directory, inode, umask)
            inode.nlink = 0
            self._orphans.add(tx, inode)
        return inode

    def _inherit(self, tx: Transaction, directory: Inode, inode: Inode, umask: int) -> None:
        """Apply the directory's default list to a new inode, or else the umask."""
        value = self._xattrs.read(directory).get(acl.DEFAULT) if directory.xattr else None
        if value is None:
            inode.mode &= ~umask
            return
        access = acl.inherited(acl.parse(value), inode.mode)
        inode.mode = acl.mode_of(access, inode.mode)
        self._xattrs.replace(
            tx,
            inode,
            {
                acl.ACCESS: None if acl.is_minimal(access) else acl.pack(access),
                acl.DEFAULT: value if inode.is_dir else None,
            },
        )

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Inode:
        """Make a symbolic link; return its inode."""
        if not target:
            raise PmemfsError(errno.ENOENT, "an empty target")
        if len(target) > SYMLINK_MAX or b"\0" in target:
            raise PmemfsError(errno.ENAMETOOLONG, "a target is at most 4095 bytes")
        directory = self.directory(parent)
        self._require_absent(directory, name)
        with self._journal.transaction() as tx:
            inode = self._new_inode(tx, directory, stat.S_IFLNK | 0o777, uid, gid)
            self._set_target(tx, inode, target)
            self._add(tx, directory, name, inode)
        return inode

    def _set_target(self, tx: Transaction, inode: Inode, target: bytes) -> None:
        inode.size = len(target)
        if len(target) <= INLINE_BYTES:
            inode.map_kind = MapKind.INLINE
            padded = target.ljust(INLINE_BYTES, b"\0")
            inode.words = list(memoryview(padded).cast("Q"))
            return
        word = owner_word(inode.ino, Role.SYMLINK)
        ((pfn, _),) = self._metadata.allocate(tx, 1, word, 0)
        tx.fresh_page(pfn)[: len(target)] = target
        inode.words = [pfn] + [0] * (MAP_WORDS - 1)

    def _new_inode(self, tx: Transaction, directory: Inode, mode: int, uid: int, gid: int) -> Inode:
        inode = self._inodes.allocate(tx, self._journal.sequence + 1)
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        inode.mode = mode if stat.S_IFMT(mode) else mode | stat.S_IFREG
        inode.uid, inode.gid, inode.nlink = uid, gid, 1
        inode.home = directory.ino
        now = self._clock.now_ns()
        inode.atime_ns = inode.mtime_ns = inode.ctime_ns = inode.btime_ns = now
        if inode.is_file:
            inode.runs = []
        return inode

    def _add(self, tx: Transaction, directory: Inode, name: bytes, inode: Inode) -> None:
        """Enter a name and put both inodes."""
        self._inodes.guard(tx, directory)
        self._directories.insert(tx, directory, name, inode.ino, _file_type(inode))
        directory.entries += 1
        directory.nlink += inode.is_dir
        directory.mtime_ns = directory.ctime_ns = self._clock.now_ns()
        self._inodes.put(tx, directory)
        self._inodes.put(tx, inode)

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """Give a file one more name; raises EPERM for a directory, EMLINK at the limit."""
        inode = self._inodes.get(ino)
        directory = self.directory(parent)
        if inode.is_dir:
            raise PmemfsError(errno.EPERM, "a directory has one name")
        require_changeable(inode)
        self._require_absent(directory, name)
        if inode.nlink >= LINK_MAX:
            raise PmemfsError(errno.EMLINK, f"a file has at most {LINK_MAX} names")
        if not inode.nlink and inode.ino not in self._inodes.holds:  # its data is being freed
            raise PmemfsError(errno.ENOENT, "the file has been removed")
        with self._journal.transaction() as tx:
            self._inodes.guard(tx, inode)
            if not inode.nlink:
                self._orphans.take_off(tx, inode)
            inode.nlink += 1
            inode.ctime_ns = self._clock.now_ns()
            self._add(tx, directory, name, inode)
        return inode

    # -- removing ----------------------------------------------------------------------------

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is not a directory's; raises EISDIR for one."""
        directory = self.directory(parent)
        inode = self._entry(directory, name)
        if inode.is_dir:
            raise PmemfsError(errno.EISDIR, "a directory: use rmdir")
        _require_removable(directory, inode)
        self._finish_cut(inode)
        with self._journal.transaction() as tx:
            self._remove(tx, directory, name, inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory; raises ENOTDIR, ENOTEMPTY, EINVAL for ``.``."""
        if name in (b".", b".."):
            code = errno.EINVAL if name == b"." else errno.ENOTEMPTY
            raise PmemfsError(code, "cannot remove . or ..")
        directory = self.directory(parent)
        inode = self._entry(directory, name)
        self._require_empty(inode)
        _require_removable(directory, inode)
        with self._journal.transaction() as tx:
            self._remove(tx, directory, name, inode)

    @staticmethod
    def _require_empty(inode: Inode) -> None:
        if not inode.is_dir:
            raise PmemfsError(errno.ENOTDIR, "not a directory")
        if inode.entries:
            raise PmemfsError(errno.ENOTEMPTY, "the directory is not empty")

    def _remove(self, tx: Transaction, directory: Inode, name: bytes, inode: Inode) -> None:
        self._inodes.guard(tx, directory)
        self._directories.remove(tx, directory, name)
        directory.entries -= 1
        directory.nlink -= inode.is_dir
        directory.mtime_ns = directory.ctime_ns = self._clock.now_ns()
        self._inodes.put(tx, directory)
        self._drop_link(tx, inode)

    def _finish_cut(self, inode: Inode) -> None:
        """Finish a truncation before a held file may lose its name; see `Orphans.cut`."""
        if inode.nlink == 1 and inode in self._orphans and inode.ino in self._inodes.holds:
            self._orphans.finish(inode)

    def _drop_link(self, tx: Transaction, inode: Inode) -> None:
        self._inodes.guard(tx, inode)
        inode.nlink = 0 if inode.is_dir else inode.nlink - 1
        inode.ctime_ns = self._clock.now_ns()
        if inode.nlink or inode in self._orphans:
            self._inodes.put(tx, inode)
        else:
            self._orphans.drop(tx, inode)

    # -- rename ------------------------------------------------------------------------------

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        """Rename as renameat2(2), over what is there unless ``flags`` say otherwise.

        Raises EEXIST (NOREPLACE), ENOENT (EXCHANGE without a target), EINVAL (a directory into
        itself, unknown flags), EISDIR, ENOTDIR, ENOTEMPTY, ENOSPC.
        """
        if flags not in (0, RenameFlag.NOREPLACE, RenameFlag.EXCHANGE):
            raise PmemfsError(errno.EINVAL, "these rename flags are not supported")
        old_dir, new_dir = self.directory(parent), self.directory(new_parent)
        validate_name(new_name)
        if {name, new_name} & {b".", b".."}:
            raise PmemfsError(errno.EBUSY, "cannot rename . or ..")
        source = self._find(old_dir, name)
        _require_linked(new_dir)
        inode = self._named(old_dir, source.ino, source.type)
        found = self._directories.find(new_dir, new_name)
        target = self._named(new_dir, found.ino, found.type) if found else None
        if target is not None and flags & RenameFlag.NOREPLACE:
            raise PmemfsError(errno.EEXIST, "the new name exists")
        if target is None and flags & RenameFlag.EXCHANGE:
            raise PmemfsError(errno.ENOENT, "there is nothing to exchange with")
        _require_removable(old_dir, inode)
        require_changeable(new_dir, append_too=False)
        if target is not None:
            _require_removable(new_dir, target)
        if inode.is_dir:
            self._require_outside(inode, new_dir)
        if flags & RenameFlag.EXCHANGE and found is not None and target is not None:
            if target.is_dir:
                self._require_outside(target, old_dir)
            if target is not inode:
                self._exchange(old_dir, source, inode, new_dir, found, target)
            return
        if target is inode:
            return
        if target is not None:
            self._require_replaceable(inode, target)
            self._finish_cut(target)
        self._move(old_dir, name, inode, new_dir, new_name, found, target)

    def _require_outside(self, inode: Inode, directory: Inode) -> None:
        """Raise EINVAL if ``directory`` is ``inode`` or lies below it."""
        seen: set[int] = set()
        while directory.ino != ROOT_INO:
            if directory is inode:
                raise PmemfsError(errno.EINVAL, "cannot move a directory into itself")
            if directory.ino in seen:  # the parents run in a circle
                raise damaged_directory(directory.ino)
            seen.add(directory.ino)
            directory = self._named(directory, directory.parent, _DIRECTORY)
        if inode.ino == ROOT_INO:
            raise PmemfsError(errno.EBUSY, "cannot move the root")

    def _require_replaceable(self, inode: Inode, target: Inode) -> None:
        if inode.is_dir:
            self._require_empty(target)
        elif target.is_dir:
            raise PmemfsError(errno.EISDIR, "the new name is a directory")

    def _move(
        self,
        old_dir: Inode,
        name: bytes,
        inode: Inode,
        new_dir: Inode,
        new_name: bytes,
        found: Found | None,
        target: Inode | None,
    ) -> None:
        with self._journal.transaction() as tx:
            for each in (old_dir, new_dir, inode):
                self._inodes.guard(tx, each)
            if found is not None and target is not None:
                self._directories.replace(tx, found, inode.ino, _file_type(inode))
                new_dir.nlink -= target.is_dir
            else:
                file_type = _file_type(inode)
                self._directories.insert(tx, new_dir, new_name, inode.ino, file_type)
                new_dir.entries += 1
            self._directories.remove(tx, old_dir, name)
            old_dir.entries -= 1
            old_dir.nlink -= inode.is_dir
            new_dir.nlink += inode.is_dir
            self._put_moved(tx, inode, new_dir)
            self._stamp(tx, old_dir, new_dir)
            if target is not None:
                self._drop_link(tx, target)

    def _exchange(
        self,
        old_dir: Inode,
        source: Found,
        inode: Inode,
        new_dir: Inode,
        found: Found,
        target: Inode,
    ) -> None:
        with self._journal.transaction() as tx:
            for each in (old_dir, new_dir, inode, target):
                self._inodes.guard(tx, each)
            self._directories.replace(tx, source, target.ino, _file_type(target))
            self._directories.replace(tx, found, inode.ino, _file_type(inode))
            if old_dir is not new_dir:
                old_dir.nlink += target.is_dir - inode.is_dir
                new_dir.nlink += inode.is_dir - target.is_dir
            self._put_moved(tx, inode, new_dir)
            self._put_moved(tx, target, old_dir)
            self._stamp(tx, old_dir, new_dir)

    def _put_moved(self, tx: Transaction, inode: Inode, directory: Inode) -> None:
        if inode.is_dir:
            inode.parent = directory.ino
        inode.ctime_ns = self._clock.now_ns()
        self._inodes.put(tx, inode)

    def _stamp(self, tx: Transaction, *directories: Inode) -> None:
        for directory in dict.fromkeys(directories):
            directory.mtime_ns = directory.ctime_ns = self._clock.now_ns()
            self._inodes.put(tx, directory)
