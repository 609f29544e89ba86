"""The file system as a library: a `Volume` with inode-level calls, and no FUSE in it.

    Volume.format("disk.img", 1 << 30)
    with Volume.open("disk.img") as volume:
        inode = volume.create(ROOT_INO, b"hello", stat.S_IFREG | 0o644)
        volume.write(inode.ino, 0, b"hello, world")

Every call either succeeds or raises an `OSError` with the errno that Linux gives; after an error
nothing has changed. Calls that change names, attributes, sizes or allocate are durable on return;
overwriting bytes in place is durable after `Volume.fsync`. Returned `Inode` objects are live and
must not be changed. One thread at a time.

Opening order: replay the journal; read what memory keeps, and refuse what is damaged; publish
"mounted"; raise the mount generation, which voids every split table. Closing order: unsplit;
nothing left to replay; publish "clean". Both are ordered for the host too, in either persistence
mode: so the image on its disk never says "clean", nor ``persist=disk``, of what is not.

With ``persist=disk`` all that is durable on return is so on the host's disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NoReturn

from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError, HostError, PmemfsError
from pmemfs.fs import acl
from pmemfs.fs.calls import watch_calls
from pmemfs.fs.damage import DamageLog, Errors, is_damage
from pmemfs.fs.directories import COOKIE_DOT, COOKIE_DOT_DOT, Directories
from pmemfs.fs.filemap import FileMaps
from pmemfs.fs.files import Buffer, Files
from pmemfs.fs.format import format_image
from pmemfs.fs.inodes import Inode, InodeTable
from pmemfs.fs.moves import Moves
from pmemfs.fs.namespace import Namespace, require_changeable
from pmemfs.fs.orphans import Orphans
from pmemfs.fs.placement import (
    DEFAULT_PLACEMENT,
    DEFAULT_THRESHOLD_PAGES,
    Candidates,
    DataArenas,
)
from pmemfs.fs.xattrs import Xattrs
from pmemfs.image import Image, host_boot_id
from pmemfs.journal import Journal, Replay, SequenceWord, Transaction, recover
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    INODES_PER_EXTENT,
    MAX_FILE_BYTES,
    PAGE_BYTES,
    PAGE_SHIFT,
    ROOT_INO,
    Geometry,
    extent_to_offset,
)
from pmemfs.layout.records import (
    CONTROL,
    MAX_GENERATION,
    MAX_SEQUENCE,
    NOTHING_TO_REPLAY,
    InodeFlag,
    Kind,
    MapKind,
    MountState,
    Persist,
    Role,
)
from pmemfs.layout.words import owner_word
from pmemfs.pages import Arena, ExtentPool, SplitTables
from pmemfs.pages.clock import Clock, HostClock

__all__ = ["ROOT_INO", "Options", "Statfs", "Volume"]

FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
FALLOC_ZERO_RANGE = 16
_FALLOC_MODES = (
    0,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
    FALLOC_ZERO_RANGE,
    FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE,
)
_DISCARD_AT_CLOSE = 1024
_CAPABILITY = b"security.capability"
_TRUSTED = b"trusted."
_PREALLOCATED = int(InodeFlag.PREALLOCATED)
_USER_FLAGS = int(InodeFlag.IMMUTABLE | InodeFlag.APPEND)
_COPY_MOST = 16 << 20
_STATE_OFFSET = CONTROL_OFFSET + CONTROL.offset_of["state"]
_DAY_NS = 24 * 3600 * 10**9


@dataclass(frozen=True)
class Options:
    """How a volume is opened. ``threshold_pages`` of a piece make it whole (1 to 512).

    ``placement`` is one of `pmemfs.fs.placement.PLACEMENTS`.

    ``acls`` says that whoever lets people in enforces access control lists; else they are refused.
    ``persist`` says what durable means: there after the daemon's death, or the host's power loss.
    ``errors`` says what to do about damage: see `pmemfs.fs.damage`.
    """

    read_only: bool = False
    atime: Literal["noatime", "relatime"] = "noatime"
    threshold_pages: int = DEFAULT_THRESHOLD_PAGES
    placement: str = DEFAULT_PLACEMENT
    acls: bool = True
    persist: Persist = Persist.CACHE
    errors: Errors = "remount-ro"
    clock: Clock = field(default_factory=HostClock)


class DirectoryEntry(NamedTuple):
    """One entry of a listing; ``type`` is mode >> 12, ``cookie`` the position behind it."""

    name: bytes
    ino: int
    type: int
    cookie: int


class Statfs(NamedTuple):
    """What statvfs(3) says, in pages and inodes."""

    page_bytes: int
    pages: int
    free_pages: int
    inodes: int
    free_inodes: int


@watch_calls("close", "abandon", "hold", "note_error", "free_orphans")
class Volume:
    """An open file system. Make one with `Volume.open`.

    Damage found by any call turns it read-only: see `pmemfs.fs.damage`.
    """

    def __init__(self, image: Image, options: Options) -> None:
        """Take over an open image; `Volume.open` is what callers want."""
        self.image = image
        self.options = options
        self.geometry: Geometry = image.geometry
        self.device: MappedDevice = image.device
        validate_control(image)
        self.was_clean = image.is_clean
        if not options.read_only:
            self.device.persist_on_disk()
        self.replay = self._recover()
        self._clock = options.clock
        self.live = SequenceWord(self.device)
        self.journal = Journal(self.device, self.live)
        self.pool = ExtentPool(image, self.journal)
        if not options.read_only and not self.was_clean:
            self.pool.suspect_free_data()
        self.tables: SplitTables | None = None
        if not options.read_only:
            generation = image.control()["generation"] + 1
            self.tables = SplitTables(self.pool, self.journal, self.live, generation, self._clock)
        self.data_arenas = DataArenas(self.pool, options.placement)
        self.metadata_arena = Arena(self.pool, Kind.METADATA)
        self.inodes = InodeTable(image, self.pool)
        self._maps = FileMaps(self.device, self.pool, self.metadata_arena)
        self._files = Files(
            device=self.device,
            journal=self.journal,
            pool=self.pool,
            arenas=self.data_arenas,
            tables=self.tables,
            inodes=self.inodes,
            maps=self._maps,
            clock=self._clock,
            threshold_pages=options.threshold_pages,
        )
        self.moves: Moves | None = None
        if self.tables is not None:
            self.moves = Moves(
                device=self.device,
                journal=self.journal,
                pool=self.pool,
                tables=self.tables,
                inodes=self.inodes,
                maps=self._maps,
                files=self._files,
                arenas=self.data_arenas,
                threshold_pages=options.threshold_pages,
            )
        self.orphans = Orphans(image, self.journal, self.pool, self.inodes, self._files)
        self._directories = Directories(
            self.device, self.pool, self.metadata_arena, image.superblock["hash_seed"]
        )
        self._xattrs = Xattrs(self.device, self.pool, self.metadata_arena)
        self._names = Namespace(
            journal=self.journal,
            inodes=self.inodes,
            directories=self._directories,
            orphans=self.orphans,
            xattrs=self._xattrs,
            metadata=self.metadata_arena,
            clock=self._clock,
        )
        self._keeps_atime = options.atime == "relatime" and not options.read_only
        self.is_read_only = options.read_only
        self._damage = DamageLog(image.name)
        if self.tables is not None:
            self._begin_mount()
            self.tables.begin()
        self._is_open = True

    def _recover(self) -> Replay | None:
        """Replay the journal; a read-only mount passes over one that is damaged."""
        try:
            return recover(self.device)
        except DamagedImageError as error:
            self.image.refuse(error)
            return None

    # -- the volume --------------------------------------------------------------------------

    @staticmethod
    def format(
        path: str | os.PathLike[str],
        size_bytes: int,
        *,
        label: str = "",
        force: bool = False,
        lost_found: bool = False,
    ) -> Geometry:
        """Make an image; see `pmemfs.fs.format.format_image`."""
        return format_image(path, size_bytes, label=label, force=force, lost_found=lost_found)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        options: Options | None = None,
        *,
        device_class: type[MappedDevice] = MappedDevice,
    ) -> Volume:
        """Open an image; ``was_clean`` and ``replay`` say what a crash had left.

        ``read_only`` writes nothing: the journal is replayed in memory. Raises `PmemfsError`:
        EBUSY when the image is in use, EUCLEAN when it is damaged, EROFS when its features allow
        reading only, ENOSPC when the host has no room for what a mount needs.
        """
        options = options or Options()
        image = Image.open(
            path,
            lock="shared" if options.read_only else "exclusive",
            private=options.read_only,
            device_class=device_class,
        )
        try:
            if image.is_read_only_format and not options.read_only:
                raise PmemfsError(errno.EROFS, f"{path} has features that allow only ro")
            return cls(image, options)
        except BaseException:
            image.close()
            raise

    def _begin_mount(self) -> None:
        """Publish that the image is mounted, raise the generation, begin the mode asked for.

        Mode and boot id come first: what says "mounted" says how, too.
        """
        device, geometry = self.device, self.geometry
        for extent in (0, 1, geometry.first_inode_extent, geometry.reserve_extent):
            device.back(extent_to_offset(extent), EXTENT_BYTES)
        control = self.image.control()
        start = CONTROL_OFFSET + CONTROL.offset_of["boot_id"]
        who = CONTROL.pack(
            boot_id=host_boot_id(),
            persist=self.options.persist,
            mounted_ns=self._clock.now_ns(),
        )
        end = CONTROL.offset_of["reserved2"]
        data = who[CONTROL.offset_of["boot_id"] : end]
        device.store(start, data)
        device.flush(start, len(data))
        device.publish(_STATE_OFFSET, MountState.MOUNTED)
        generation = CONTROL_OFFSET + CONTROL.offset_of["generation"]
        device.publish(generation, control["generation"] + 1)
        if self.options.persist == Persist.CACHE:
            device.persist_in_cache()

    def close(self) -> None:
        """Leave the image clean and durable on its host, and let go of it.

        It is left as it is after damage was found: what was committed is durable, also on the
        host as far as that works.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            if not self.is_read_only:
                self._leave_clean()
            elif not self.options.read_only:
                self.device.sync()
        except Exception as error:
            if not self.note_error(error):
                raise
        finally:
            self.image.close()

    def _leave_clean(self) -> None:
        assert self.tables is not None
        self.inodes.holds.clear()  # whoever held something is gone
        self.free_orphans()
        self.tables.close()
        while self.release_idle():
            pass
        self.pool.discard_returned(_DISCARD_AT_CLOSE)
        self.pool.discard_suspects()
        self.device.persist_on_disk()
        self.journal.retire()
        self.device.publish(_STATE_OFFSET, MountState.DAMAGED if self._damage else MountState.CLEAN)

    def note_error(self, error: Exception) -> bool:
        """Tell whether an error that has stopped something is damage; if so, act as `Options` say.

        All that public calls raise comes here by itself.
        """
        failure = self.journal.failure
        if failure is None and not is_damage(error):
            return False
        stops = failure is not None or self.options.errors == "remount-ro"
        then = "it is read-only from here on" if stops else "going on (errors=continue)"
        self._damage.note(failure or str(error), then)
        if not self.is_read_only:
            if stops:
                self._turn_read_only()
            with contextlib.suppress(HostError):
                self.device.publish(_STATE_OFFSET, MountState.DAMAGED)
        return True

    def _turn_read_only(self) -> None:
        """Store nothing any more, whatever is asked for."""
        self.is_read_only = True
        self._keeps_atime = False
        self.journal.stop()
        self._files.stop_noting()
        self.device.persist_in_cache()  # from here on a sync covers what was not flushed, too

    def abandon(self) -> None:
        """Let go of the image as a killed daemon would, without leaving it clean."""
        self._is_open = False
        self.image.close()

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def statfs(self) -> Statfs:
        """Return sizes as ``df`` shows them: the fixed extents count as used."""
        free = self.pool.free_pages
        free_inodes = self.inodes.free_known + self.pool.free_extents * INODES_PER_EXTENT
        free_inodes = min(free_inodes, (1 << 32) - self.inodes.in_use)
        return Statfs(
            PAGE_BYTES,
            self.geometry.n_pages,
            free,
            self.inodes.in_use + free_inodes,
            free_inodes,
        )

    def _require_writable(self) -> None:
        if self.is_read_only:
            why = "damage was found" if self._damage else "mounted read-only"
            raise PmemfsError(errno.EROFS, why)

    # -- finding -----------------------------------------------------------------------------

    def inode(self, ino: int) -> Inode:
        """Return an inode by number; raises ENOENT."""
        return self.inodes.get(ino)

    def lookup(self, parent: int, name: bytes) -> Inode:
        """Return what a name in a directory stands for; raises ENOENT, ENOTDIR, ENAMETOOLONG."""
        inode = self.find(parent, name)
        if inode is None:
            raise PmemfsError(errno.ENOENT, "no such name")
        return inode

    def find(self, parent: int, name: bytes) -> Inode | None:
        """Return what a name in a directory stands for, or None; else as `lookup`."""
        self._trim()
        return self._names.find(parent, name)

    def _trim(self) -> None:
        """Keep the cache of inodes small; what makes it grow, looking around, begins with this."""
        self.inodes.trim(self.tables.is_dirty if self.tables is not None else lambda _: False)

    def resolve(self, path: bytes) -> Inode:
        """Return what a path from the root stands for; symbolic links are not followed."""
        inode = self.inodes.get(ROOT_INO)
        for name in path.split(b"/"):
            if name:
                inode = self.lookup(inode.ino, name)
        return inode

    def readdir(self, ino: int, after: int = 0) -> Iterator[DirectoryEntry]:
        """Iterate a directory, ``.`` and ``..`` first, from behind the entry with that cookie.

        Entries that stay are listed once each, whatever comes and goes meanwhile.
        """
        self._trim()
        directory = self._names.directory(ino)
        if after < COOKIE_DOT:
            yield DirectoryEntry(b".", ino, stat.S_IFDIR >> 12, COOKIE_DOT)
        if after < COOKIE_DOT_DOT:
            yield DirectoryEntry(b"..", directory.parent, stat.S_IFDIR >> 12, COOKIE_DOT_DOT)
        for entry in self._directories.iter_entries(directory, max(after, COOKIE_DOT_DOT)):
            yield DirectoryEntry(entry.name, entry.ino, entry.type, entry.cookie)

    # -- holding -----------------------------------------------------------------------------

    def hold(self, ino: int, count: int = 1) -> None:
        """Keep an inode alive, even without a name, until as many `release`."""
        self.inodes.holds.add(ino, count)

    def release(self, ino: int, count: int = 1) -> None:
        """Let go of an inode; without a name and the last hold, its space is freed."""
        if self.inodes.holds.drop(ino, count) and self.orphans and not self.is_read_only:
            inode = self.inodes.get(ino)
            if not inode.nlink and inode in self.orphans:
                self.orphans.work(inode)

    # -- names -------------------------------------------------------------------------------

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        rdev: int = 0,
        *,
        umask: int = 0,
    ) -> Inode:
        """Make a file, fifo, socket or device; ``mode`` has type and permissions.

        A default access control list of the directory takes the place of ``umask``.
        """
        self._require_writable()
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            raise PmemfsError(errno.EINVAL, "make directories and links by their own calls")
        return self._names.create(parent, name, mode, uid, gid, rdev=rdev, umask=umask)

    def mkdir(
        self, parent: int, name: bytes, mode: int, uid: int = 0, gid: int = 0, *, umask: int = 0
    ) -> Inode:
        """Make a directory; ``umask`` as for `create`."""
        self._require_writable()
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        return self._names.create(parent, name, mode, uid, gid, umask=umask)

    def tmpfile(
        self, parent: int, mode: int, uid: int = 0, gid: int = 0, *, umask: int = 0
    ) -> Inode:
        """Make a file without a name, held once for the caller; `link` can give it one."""
        self._require_writable()
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        inode = self._names.tmpfile(parent, mode, uid, gid, umask)
        self.hold(inode.ino)
        return inode

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int = 0, gid: int = 0) -> Inode:
        """Make a symbolic link to ``target``."""
        self._require_writable()
        return self._names.symlink(parent, name, target, uid, gid)

    def readlink(self, ino: int) -> bytes:
        """Return the target of a symbolic link; raises EINVAL for anything else."""
        inode = self.inodes.get(ino)
        if not inode.is_symlink:
            raise PmemfsError(errno.EINVAL, "not a symbolic link")
        if inode.map_kind == MapKind.INLINE:
            packed = b"".join(word.to_bytes(8, "little") for word in inode.words)
            return packed[: inode.size]
        pfn = inode.words[0]
        if not self.pool.holds_page(pfn, Kind.METADATA, owner_word(ino, Role.SYMLINK)):
            raise DamagedImageError(f"the target of link {ino} is damaged; run pmemfs fsck")
        start = pfn << PAGE_SHIFT
        return bytes(self.device.view[start : start + inode.size])

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """Give a file one more name."""
        self._require_writable()
        return self._names.link(ino, parent, name)

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name; the inode goes with its last name and its last hold."""
        self._require_writable()
        self._names.unlink(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        self._require_writable()
        self._names.rmdir(parent, name)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        """Rename; flags are `pmemfs.fs.namespace.RenameFlag`."""
        self._require_writable()
        self._names.rename(parent, name, new_parent, new_name, flags)

    # -- attributes --------------------------------------------------------------------------

    def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        drop_privileges: bool = False,
    ) -> Inode:
        """Change what is given; permissions only of ``mode``. A new owner clears set-id bits.

        ``drop_privileges`` clears them, and file capabilities, for another reason. Times that
        are those it has already cost nothing; those before 1677 or after 2262 become the nearest
        that there is.
        """
        self._require_writable()
        inode = self.inodes.get(ino)
        require_changeable(inode, append_too=(mode, uid, gid, size, atime_ns) != (None,) * 5)
        drops = drop_privileges or uid is not None or gid is not None
        if size is not None:
            if drops:
                self.drop_privileges(ino)
            self._set_size(inode, size)
        if (mode, uid, gid, atime_ns, mtime_ns, ctime_ns) == (None,) * 6:
            if drops and size is None:
                self.drop_privileges(ino)
            return inode
        ctime_ns = self._clock.now_ns() if ctime_ns is None else ctime_ns
        times = (
            inode.atime_ns if atime_ns is None else _representable(atime_ns),
            inode.mtime_ns if mtime_ns is None else _representable(mtime_ns),
            _representable(ctime_ns),
        )
        if (mode, uid, gid) == (None,) * 3 and not drops and times == inode.times_ns:
            return inode
        with self.journal.transaction() as tx:
            self.inodes.guard(tx, inode)
            if drops:
                self._drop_privileges(tx, inode, set_id=True)
            if uid is not None:
                inode.uid = uid
            if gid is not None:
                inode.gid = gid
            if mode is not None:
                self._change_mode(tx, inode, mode)
            inode.atime_ns, inode.mtime_ns, inode.ctime_ns = times
            self.inodes.put(tx, inode)
        return inode

    def _change_mode(self, tx: Transaction, inode: Inode, mode: int) -> None:
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
        value = self._xattrs.read(inode, tx).get(acl.ACCESS) if inode.xattr else None
        if value is not None:
            changed = acl.pack(acl.with_mode(acl.parse(value), mode))
            self._xattrs.replace(tx, inode, {acl.ACCESS: changed})

    def drop_privileges(self, ino: int, *, set_id: bool = True) -> None:
        """Take set-id bits (unless told not to) and file capabilities from a file that has them.

        As Linux does when a file is written, cut or given away: set-group-id only goes where the
        group may execute.
        """
        inode = self.inodes.get(ino)
        with self.journal.transaction() as tx:
            if self._drop_privileges(tx, inode, set_id=set_id):
                self.inodes.put(tx, inode)

    def _drop_privileges(self, tx: Transaction, inode: Inode, *, set_id: bool) -> bool:
        """Do it within a transaction; tell whether the caller has to put the inode."""
        if inode.is_dir:
            return False
        mode = without_set_id(inode.mode) if set_id else inode.mode
        has_capability = bool(inode.xattr) and _CAPABILITY in self._xattrs.read(inode, tx)
        if mode == inode.mode and not has_capability:
            return False
        self.inodes.guard(tx, inode)
        inode.mode = mode
        if has_capability:
            self._xattrs.remove(tx, inode, _CAPABILITY)
        return True

    def _set_size(self, inode: Inode, size: int) -> None:
        self._require_file(inode)
        if size > MAX_FILE_BYTES:
            raise PmemfsError(errno.EFBIG, "a file cannot be larger than 16 TiB")
        self.orphans.finish_cut(inode)
        if size > inode.size:
            self._files.grow(inode, size)
            return
        with self.journal.transaction() as tx:
            self.inodes.guard(tx, inode)
            inode.size = size
            inode.flags &= ~_PREALLOCATED  # what lay behind the end goes too
            inode.mtime_ns = inode.ctime_ns = self._clock.now_ns()
            done = self.orphans.cut(tx, inode)
            self.inodes.put(tx, inode)
        if not done and not inode.nlink:
            self.orphans.trim(inode)

    def _require_file(self, inode: Inode) -> None:
        if not inode.is_file:
            self._refuse(inode)

    @staticmethod
    def _refuse(inode: Inode) -> NoReturn:
        code = errno.EISDIR if inode.is_dir else errno.EINVAL
        raise PmemfsError(code, "not a regular file")

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Return one extended attribute; raises ENODATA."""
        inode = self.inodes.get(ino)
        value = self._xattrs.read(inode).get(name) if inode.xattr else None
        if value is None:
            raise PmemfsError(errno.ENODATA, "there is no such attribute")
        return value

    def listxattr(self, ino: int, is_admin: Callable[[], bool] | None = None) -> list[bytes]:
        """Return the names of all extended attributes.

        Those that Linux shows to CAP_SYS_ADMIN only are left out unless ``is_admin`` says so; it
        is asked only where there are such.
        """
        names = list(self._xattrs.read(self.inodes.get(ino)))
        public = [name for name in names if not name.startswith(_TRUSTED)]
        if len(public) == len(names) or is_admin is None or is_admin():
            return names
        return public

    def setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int = 0, *, drop_set_gid: bool = False
    ) -> None:
        """Set an extended attribute; flags as setxattr(2): 1 create, 2 replace.

        An access control list changes the mode with it. ``drop_set_gid`` says that the caller
        may not keep set-group-id when it does.
        """
        self._require_writable()
        inode = self.inodes.get(ino)
        require_changeable(inode)
        with self.journal.transaction() as tx:
            self.inodes.guard(tx, inode)
            if name in acl.NAMES:
                self._set_acl(tx, inode, name, value)
                inode.mode &= ~(stat.S_ISGID if drop_set_gid else 0)
            else:
                self._xattrs.set(tx, inode, name, value, flags)
            inode.ctime_ns = self._clock.now_ns()
            self.inodes.put(tx, inode)

    def _set_acl(self, tx: Transaction, inode: Inode, name: bytes, value: bytes) -> None:
        if not self.options.acls or inode.is_symlink:
            raise PmemfsError(errno.EOPNOTSUPP, "access control lists are not enforced here")
        if name == acl.DEFAULT and not inode.is_dir:
            raise PmemfsError(errno.EACCES, "only a directory has a default list")
        entries = acl.parse(value)
        if name == acl.ACCESS and entries:
            inode.mode = acl.mode_of(entries, inode.mode)
        is_needed = entries and not (name == acl.ACCESS and acl.is_minimal(entries))
        self._xattrs.replace(tx, inode, {name: acl.pack(entries) if is_needed else None})

    def removexattr(self, ino: int, name: bytes) -> None:
        """Remove an extended attribute; raises ENODATA."""
        self._require_writable()
        inode = self.inodes.get(ino)
        require_changeable(inode)
        with self.journal.transaction() as tx:
            self.inodes.guard(tx, inode)
            self._xattrs.remove(tx, inode, name)
            inode.ctime_ns = self._clock.now_ns()
            self.inodes.put(tx, inode)

    # -- data --------------------------------------------------------------------------------

    def read(self, ino: int, offset: int, size: int) -> list[memoryview]:
        """Return file bytes as read-only pieces of the mapping; see `Files.read`."""
        inode = self.inodes.get(ino)
        if not inode.is_file:
            self._refuse(inode)
        if self._keeps_atime:
            self._note_atime(inode)
        return self._files.read(inode, offset, size)

    def _note_atime(self, inode: Inode) -> None:
        now = self._clock.now_ns()
        newest = max(inode.mtime_ns, inode.ctime_ns)
        if inode.atime_ns > newest and now - inode.atime_ns < _DAY_NS:
            return
        with self.journal.transaction() as tx:
            self.inodes.guard(tx, inode)
            inode.atime_ns = now
            self.inodes.put(tx, inode)

    def write(self, ino: int, offset: int, data: Buffer, *, stamp: bool = True) -> int:
        """Write file bytes; return how many were written. See `Files.write`.

        Without ``stamp`` the times stay: whoever caches writes sets them.
        """
        self._require_writable()
        inode = self.inodes.get(ino)
        if not inode.is_file:
            self._refuse(inode)
        if inode.flags:
            require_changeable(inode, append_too=stamp and offset < inode.size)
        if self.orphans:
            self.orphans.finish_cut(inode)
        return self._files.write(inode, offset, data, stamp=stamp)

    def free_orphans(self) -> bool:
        """Free all that waits to be freed and can be; tell whether there was anything."""
        found = False
        while (orphan := self.orphans.workable()) is not None:
            self.orphans.work(orphan)
            found = True
        return found

    def fsync(self, ino: int) -> None:
        """Make all data of a file durable, also on the image's host (``fdatasync``)."""
        if not self.options.read_only:
            self.flush(ino)
            self.device.sync()

    def flush_all(self) -> None:
        """Make all data of all files durable on the device, but for the host."""
        if not self.is_read_only:
            self._files.sync()

    def flush(self, ino: int) -> None:
        """Make all data of a file durable on the device, as `fsync` but for the host."""
        if not self.is_read_only:
            self._files.fsync(self.inodes.get(ino))

    def fallocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        """Allocate (mode 0 or ``KEEP_SIZE``), punch a hole (``PUNCH_HOLE | KEEP_SIZE``), or zero a
        range (``ZERO_RANGE``, also with ``KEEP_SIZE``), as fallocate(2).

        Raises EOPNOTSUPP for other modes, EINVAL for an empty range, ENOSPC with the size as
        it was.
        """
        self._require_writable()
        inode = self.inodes.get(ino)
        self._require_file(inode)
        require_changeable(inode, append_too=bool(mode & ~FALLOC_KEEP_SIZE))
        if offset < 0 or length <= 0:
            raise PmemfsError(errno.EINVAL, "an empty range")
        if offset + length > MAX_FILE_BYTES:
            raise PmemfsError(errno.EFBIG, "a file cannot be larger than 16 TiB")
        self.orphans.finish_cut(inode)
        keep_size = bool(mode & FALLOC_KEEP_SIZE)
        if mode not in _FALLOC_MODES:
            raise PmemfsError(errno.EOPNOTSUPP, "this fallocate mode is not supported")
        if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            self._files.punch(inode, offset, length)
        if not mode & FALLOC_PUNCH_HOLE:
            self._allocate(inode, offset, length, keep_size)

    def _allocate(self, inode: Inode, offset: int, length: int, keep_size: bool) -> None:
        size = inode.size
        try:
            self._files.allocate(inode, offset, length, keep_size=keep_size)
        except PmemfsError:
            if inode.size > size:
                self._set_size(inode, size)
            raise

    def copy_range(self, ino: int, offset: int, to_ino: int, to_offset: int, length: int) -> int:
        """Copy file data within the volume, as copy_file_range(2); return how much was copied.

        At most 16 MiB in one call. Ranges of one file must not overlap. Durable as writes are.
        Raises as `read` and `write` do if nothing could be copied.
        """
        length = min(length, _COPY_MOST)
        done = 0
        while done < length:
            step = min(length - done, EXTENT_BYTES - (to_offset + done) % EXTENT_BYTES)
            pieces = self.read(ino, offset + done, step)
            if not pieces:
                break
            try:  # one piece at a time: writing may move the pages that later pieces show
                written = self.write(to_ino, to_offset + done, pieces[0])
            except PmemfsError:
                if done:
                    break
                raise
            done += written
            if written < len(pieces[0]):
                break
        return done

    def inode_flags(self, ino: int) -> int:
        """Return the flags people can set: IMMUTABLE and APPEND, as ``FS_*_FL``."""
        return self.inodes.get(ino).flags & _USER_FLAGS

    def set_inode_flags(self, ino: int, flags: int) -> None:
        """Set these flags; raises EOPNOTSUPP for any other. Privilege is the caller's business."""
        self._require_writable()
        if flags & ~_USER_FLAGS:
            raise PmemfsError(errno.EOPNOTSUPP, "the flags here are immutable and append-only")
        inode = self.inodes.get(ino)
        with self.journal.transaction() as tx:
            self.inodes.guard(tx, inode)
            inode.flags = inode.flags & ~_USER_FLAGS | flags
            inode.ctime_ns = self._clock.now_ns()
            self.inodes.put(tx, inode)

    def seek(self, ino: int, offset: int, *, data: bool) -> int:
        """Return the next data (or hole) as lseek(2) with SEEK_DATA (SEEK_HOLE)."""
        inode = self.inodes.get(ino)
        self._require_file(inode)
        return self._files.seek(inode, offset, data=data)

    # -- idle work ---------------------------------------------------------------------------

    @property
    def candidates(self) -> Candidates:
        """Files whose tail may be thin, pieces that may be dense; see `Moves`."""
        return self._files.candidates

    @property
    def pages_written(self) -> int:
        """Pages of file data that were asked to be written or allocated since the mount."""
        return self._files.pages_written

    @property
    def pages_promoted(self) -> int:
        """Pages copied into whole extents since the mount, by writes that filled their pieces."""
        return self._files.pages_promoted

    def _arenas(self) -> list[Arena]:
        arenas = [*self.data_arenas, self.metadata_arena]
        return arenas if self.moves is None else [*arenas, self.moves.holes]

    @property
    def has_idle_extents(self) -> bool:
        """Whether `release_idle` would find an extent to give back."""
        return (
            any(arena.is_idle_empty for arena in self._arenas())
            or self.pool.empty_open() is not None
            or self.inodes.has_empty_chunk
        )

    def release_idle(self) -> bool:
        """Give back one extent that only an idle arena or chunk keeps; tell if there was one."""
        for arena in self._arenas():
            if arena.is_idle_empty:
                arena.retire()
        extent = self.pool.empty_open()
        if extent is not None:
            with self.journal.transaction() as tx:
                self.pool.release(tx, extent)
            return True
        if self.inodes.has_empty_chunk:
            with self.journal.transaction() as tx:
                return self.inodes.release_empty_chunk(tx)
        return False


def validate_control(image: Image) -> None:
    """Refuse an image for a control page that no mount can go on from."""
    control = image.control()
    good = control["state"] in tuple(MountState) and control["generation"] <= MAX_GENERATION
    if not good or control["committed"] & ~NOTHING_TO_REPLAY > MAX_SEQUENCE:
        text = "the control page is damaged; run pmemfs fsck"
        image.refuse(DamagedImageError(text, CONTROL_OFFSET))


def _representable(time_ns: int) -> int:
    """Return the nearest time that a signed 64-bit number of ns can tell."""
    return min(max(time_ns, -(1 << 63)), (1 << 63) - 1)


def without_set_id(mode: int) -> int:
    """Return a mode without set-user-id, and without set-group-id if the group may execute."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode
