"""The native front end: the kernel's FUSE protocol over /dev/fuse, straight onto a `Volume`.

A request is read whole into one buffer; its handler gets the node, the caller and the body, calls
the Volume, and returns the reply as one buffer or a list of them, which `os.writev` sends behind a
header: the pieces of a read go from the mapping to the kernel without a copy of our own. Node ids
are inode numbers. Messages: `pmemfs.fuse.protocol`.

What is promised to the kernel, and how it is kept:

* *Entries and attributes are valid for hours.* The daemon is the only one who changes them, and
  everything but ``st_blocks`` changes at the kernel's own request. When the write of cached data
  changes how many pages a file has, its attributes are invalidated: before an fsync is answered,
  and else in the next pause, since a kernel without attributes asks before it takes more data.
* *Lookup counts are exact.* Each entry in a reply is one hold of its inode, FORGET lets go of
  them. Without OPEN and RELEASE a removed inode lives until its holds are gone, the orphan list
  behind it.
* *OPEN, OPENDIR, FLUSH and ACCESS answer ENOSYS*, so the kernel stops asking (but ``cache=none``
  opens files for direct I/O). So O_TRUNC comes as SETATTR.
* *Writeback*: the kernel owns size, mtime and the append position. Cached writes are not stamped;
  the kernel sends its times. It keeps an error of a cached write for fsync and close. So that a
  program that only writes hears of it too, and does not go on for ever, attributes are
  invalidated: the next write(2) asks for them, and gets the error (as NFS does it).
* *Permissions and the umask*: the kernel checks, where it was told to; the umask is ours to
  apply, since a default access control list takes its place. Where nobody but root is let in,
  nothing is checked: a check makes the kernel ask for the attributes of a directory after each
  change in it.
* *Set-id bits and file capabilities* are ours to drop when a request says so (KILLPRIV_V2).
* *A full device is full when all is heard.* The kernel queues FORGET apart from requests and hands
  over either first (``fuse_dev_do_read``), so space that a program has freed may still be held. A
  request without room is put aside, and served again when nothing is left in the queue.

One thread serves requests in order and does idle work in between. Only ``fdatasync`` runs in a
thread of its own, which touches nothing else and sends the reply of FSYNC itself. One that fails
comes back to the first thread: the volume is told before the caller is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable

from pmemfs.errors import PmemfsError
from pmemfs.fs import Inode, Volume, acl
from pmemfs.fuse import protocol as p
from pmemfs.fuse.activity import OF_OPCODE, Activity
from pmemfs.fuse.attributes import Attributes
from pmemfs.fuse.callers import is_admin
from pmemfs.fuse.native_mount import max_request_bytes
from pmemfs.fuse.protocol import InitFlag, Opcode, OpenFlag, SetattrFlag
from pmemfs.layout.geometry import NAME_MAX, PAGE_BYTES
from pmemfs.reclaim import Reclaimer

log = logging.getLogger("pmemfs.fuse")

_HEADER_BYTES = p.IN_HEADER.size_bytes
_NOT_LOOKED_UP = (0,) * 22
_VALID_S = 24 * 3600
_NS = 10**9
_POLL_MOST_S = 1.0
_OPCODES = 64
_STEP_EVERY = 256  # requests between two looks at the clock while they never stop coming
SPIN_S = 50e-6
_SEEK_DATA = 3
_WRITE_CACHE = 1
_UNMOUNT, _SYNC_FAILED = b"u", b"s"  # what wakes the loop
_WRITTEN_BACK = SetattrFlag.MTIME | SetattrFlag.CTIME

_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.EXPORT_SUPPORT
    | InitFlag.BIG_WRITES
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.NO_OPENDIR_SUPPORT
    | InitFlag.EXPLICIT_INVAL_DATA
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.SETXATTR_EXT
    | InitFlag.DONT_MASK
    | InitFlag.INIT_EXT
)
_WANTED_2 = InitFlag.DIRECT_IO_ALLOW_MMAP >> 32

Buffer = bytes | bytearray | memoryview
Reply = Buffer | list[Buffer] | None
Handler = Callable[[int, int, int, memoryview], Reply]

_unpack_header = p.IN_HEADER.unpacker("opcode", "unique", "nodeid", "uid", "gid")
_unpack_pid = p.IN_HEADER.unpacker("pid")
_pack_out = p.OUT_HEADER.struct.pack
_unpack_getattr = p.GETATTR_IN.unpacker("getattr_flags")
_unpack_valid = p.SETATTR_IN.unpacker("valid")
_unpack_times = p.SETATTR_IN.unpacker("mtime", "ctime", "mtimensec", "ctimensec")
_unpack_read = p.READ_IN.unpacker("offset", "size")
_unpack_write = p.WRITE_IN.unpacker("offset", "size", "write_flags")
_pack_written = p.WRITE_OUT.struct.pack
_NO_ENTRY = p.ENTRY_OUT.pack(entry_valid=_VALID_S)  # node 0: there is none, and that is to be kept


_U64 = (1 << 64) - 1


class NativeFrontend:
    """Serves one volume on an open ``/dev/fuse`` descriptor until it is unmounted.

    ``cache`` is ``writeback``, ``writethrough`` or ``none``. ``checked`` says that the kernel
    checks permissions, access control lists among them. ``unmount`` is called, in a thread,
    after `request_unmount`, while requests are served; it returns whether the kernel will end the
    connection, or False when it has only detached the directory.
    """

    def __init__(
        self,
        volume: Volume,
        fd: int,
        *,
        reclaimer: Reclaimer | None,
        cache: str = "writeback",
        checked: bool = True,
        xattrs: bool = True,
        owner: tuple[int | None, int | None] = (None, None),
        on_ready: Callable[[], None] = lambda: None,
        unmount: Callable[[], bool] = lambda: False,
    ) -> None:
        self._volume = volume
        self._fd = fd
        self._cache = cache
        self._checked = checked
        self._uid, self._gid = owner
        self._on_ready = on_ready
        self._unmount = unmount
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._max_bytes = max_request_bytes()
        self._buffer = bytearray(self._max_bytes + PAGE_BYTES)
        self._view = memoryview(self._buffer)
        self._reclaimer = reclaimer
        self._xattrs = Attributes(volume, reclaimer)
        self._next_step = 0.0
        self._done = False
        self._refused: dict[int, int] = {}  # inode: errno of a cached write, to be told the writer
        self._stale: set[int] = set()  # inodes of which the kernel has attributes out of date
        self._unique = 0  # of the request that is served
        self._postponed: list[bytes] = []  # found no room, to be served again
        self._may_postpone = True
        self._syncs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._failed_syncs: queue.SimpleQueue[tuple[int, PmemfsError]] = queue.SimpleQueue()
        self._syncer = threading.Thread(target=self._run_syncs, name="fdatasync", daemon=True)
        self._handlers = self._make_handlers(xattrs)
        self._activity = Activity(volume)
        self._served = [0] * _OPCODES

    def _make_handlers(self, xattrs: bool) -> dict[int, Handler]:
        handlers: dict[int, Handler] = {
            Opcode.INIT: self._init,
            Opcode.DESTROY: self._destroy,
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.SYMLINK: self._symlink,
            Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir,
            Opcode.UNLINK: self._unlink,
            Opcode.RMDIR: self._rmdir,
            Opcode.RENAME: self._rename,
            Opcode.RENAME2: self._rename2,
            Opcode.LINK: self._link,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.STATFS: self._statfs,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.FALLOCATE: self._fallocate,
            Opcode.LSEEK: self._lseek,
            Opcode.COPY_FILE_RANGE: self._copy_file_range,
            Opcode.TMPFILE: self._tmpfile,
            Opcode.RELEASE: self._release,
            Opcode.IOCTL: self._ioctl,
            Opcode.STATX: self._statx,
            Opcode.FSYNC: self._fsync,
            Opcode.FSYNCDIR: self._fsync,
            Opcode.SYNCFS: self._syncfs,
            Opcode.INTERRUPT: self._ignore,
        }
        if self._cache == "none":
            handlers[Opcode.OPEN] = self._open_direct
            handlers[Opcode.CREATE] = self._create
        if xattrs:
            handlers |= {
                Opcode.GETXATTR: self._getxattr,
                Opcode.LISTXATTR: self._listxattr,
                Opcode.SETXATTR: self._setxattr,
                Opcode.REMOVEXATTR: self._removexattr,
            }
        return {int(opcode): handler for opcode, handler in handlers.items()}

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the file system is unmounted."""
        self._syncer.start()
        try:
            self._loop()
        finally:
            self._syncs.put(None)
            self._syncer.join()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def request_unmount(self) -> None:
        """Unmount soon; may be called from a signal handler or another thread."""
        self._wake(_UNMOUNT)

    def _wake(self, wanted: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, wanted)

    def _unmount_now(self) -> None:
        if not self._unmount():
            self._done = True  # detached: those who still use it get ENOTCONN
            self.request_unmount()

    def _loop(self) -> None:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        buffers = [self._buffer]
        fd = self._fd
        readv, poll, dispatch = os.readv, poller.poll, self._dispatch
        os.set_blocking(fd, False)
        queued = False  # while requests are waiting, they are read without asking for them
        left = _STEP_EVERY
        while not self._done:
            if not queued:
                queued = bool(poll(0))
                if not queued:
                    if self._postponed:
                        self._serve_postponed()
                    if not self._spin(poll):
                        self._wait(poller)
            try:
                length = readv(fd, buffers)
            except BlockingIOError:  # that was all, or a signal
                queued = False
                self._sleep(poller, 0)
                continue
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):  # the request was taken back
                    continue
                raise
            dispatch(length)
            left -= 1
            if not left:
                left = _STEP_EVERY
                if self._postponed:
                    self._serve_postponed()
                if self._stale:
                    self._invalidate_stale()
                self._step_if_due()
                self._sleep(poller, 0)

    def _spin(self, poll: Callable[[int], list[tuple[int, int]]]) -> bool:
        """Wait a moment without sleeping; tell whether something has come.

        Yields the core each time: a client that waits for this very core goes on at once, and one
        on another core finds its request taken without a wake-up (see ARCHITECTURE.md).
        """
        deadline = time.perf_counter() + SPIN_S
        while time.perf_counter() < deadline:
            os.sched_yield()
            if poll(0):
                return True
        return False

    def _wait(self, poller: select.poll) -> None:
        """Do idle work that is due, then sleep until a request, a signal, or the next step."""
        if self._stale:
            self._invalidate_stale()
        self._sleep(poller, self._step_if_due())

    def _sleep(self, poller: select.poll, timeout_s: float) -> None:
        """Sleep until a request or a signal comes; of a signal begin to unmount."""
        for fd, _ in poller.poll(timeout_s * 1000):
            if fd == self._wake_read:
                wanted = os.read(self._wake_read, 64)
                if _SYNC_FAILED in wanted:
                    self._tell_failed_syncs()
                if _UNMOUNT in wanted and not self._done:
                    target = self._unmount_now
                    threading.Thread(target=target, name="unmount", daemon=True).start()

    def _step_if_due(self) -> float:
        """Do one bounded step if one is due; return the seconds until the next."""
        if self._reclaimer is None:
            return _POLL_MOST_S
        now = time.monotonic()
        if now >= self._next_step:
            try:
                delay = min(self._reclaimer.step(), _POLL_MOST_S)
                self._activity.store_if_due(
                    (OF_OPCODE.get(opcode), n) for opcode, n in enumerate(self._served) if n
                )
            except Exception:
                log.exception("unexpected error in idle work")
                delay = _POLL_MOST_S
            self._next_step = now + delay
            return delay
        return self._next_step - now

    def _dispatch(self, length: int) -> None:
        opcode, unique, nodeid, uid, gid = _unpack_header(self._buffer)
        handler = self._handlers.get(opcode)
        self._unique = unique
        if handler is None:
            self._send_error(unique, errno.ENOSYS)
            return
        self._served[opcode] += 1
        try:
            reply = handler(nodeid, uid, gid, self._view[_HEADER_BYTES:length])
        except OSError as error:
            if error.errno == errno.ENOSPC and self._may_postpone:
                self._postponed.append(bytes(self._view[:length]))
                self._served[opcode] -= 1
            else:
                self._send_error(unique, error.errno or errno.EIO)
        except Exception:
            log.exception("unexpected error in request %s of inode %d", opcode, nodeid)
            self._send_error(unique, errno.EIO)
        else:
            if reply is not None:
                self._send(unique, reply)

    def _serve_postponed(self) -> None:
        """Serve again what found no room, now that what was queued behind it has been served."""
        postponed, self._postponed = self._postponed, []
        self._may_postpone = False
        try:
            for request in postponed:
                self._view[: len(request)] = request
                self._dispatch(len(request))
        finally:
            self._may_postpone = True

    def _send(self, unique: int, reply: Buffer | list[Buffer]) -> None:
        if isinstance(reply, list):
            size = 16
            for buffer in reply:
                size += len(buffer)
            self._write_device([_pack_out(size, 0, unique), *reply])
        else:
            self._write_device([_pack_out(16 + len(reply), 0, unique), reply])

    def _send_error(self, unique: int, code: int) -> None:
        self._write_device([_pack_out(16, -code, unique)])

    def _write_device(self, buffers: list[Buffer]) -> None:
        try:
            os.writev(self._fd, buffers)
        except OSError as error:
            if error.errno == errno.EFAULT:  # the kernel could not read the mapping either
                signal.raise_signal(signal.SIGBUS)
            # ENOENT: the caller was killed meanwhile; ENODEV: unmounted
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.error("the kernel refused a reply: %s", error)

    def _invalidate_stale(self) -> None:
        """Let the kernel ask again for attributes that have changed behind its back."""
        header = _pack_out(16 + p.NOTIFY_INVAL_INODE_OUT.size_bytes, p.NOTIFY_INVAL_INODE, 0)
        for ino in self._stale:
            body = p.NOTIFY_INVAL_INODE_OUT.struct.pack(ino, -1, 0)
            with contextlib.suppress(OSError):  # ENOENT: the kernel does not know the inode
                os.writev(self._fd, [header, body])
        self._stale.clear()

    # -- connection --------------------------------------------------------------------------

    def _init(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        major, minor, max_readahead, flags = (
            int.from_bytes(body[i : i + 4], "little") for i in (0, 4, 8, 12)
        )
        if major != p.VERSION[0] or minor < p.OLDEST_MINOR:
            raise PmemfsError(errno.EPROTO, f"the kernel speaks FUSE {major}.{minor}, too old")
        wanted = _WANTED
        if self._cache == "writeback":
            wanted |= InitFlag.WRITEBACK_CACHE
        if self._cache != "none":
            wanted |= InitFlag.NO_OPEN_SUPPORT
        if self._checked:
            wanted |= InitFlag.POSIX_ACL
        self._volume.hold(p.ROOT_NODEID)
        self._on_ready()
        return p.INIT_OUT.pack(
            major=p.VERSION[0],
            minor=min(minor, p.VERSION[1]),
            max_readahead=max(max_readahead, self._max_bytes),
            flags=flags & wanted,
            max_background=64,
            congestion_threshold=48,
            max_write=self._max_bytes,
            time_gran=1,
            max_pages=self._max_bytes // PAGE_BYTES,
            flags2=_WANTED_2 if flags & InitFlag.INIT_EXT else 0,
        )

    def _destroy(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        self._done = True
        return b""

    def _ignore(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        return None

    # -- entries and attributes --------------------------------------------------------------

    def _attributes(self, inode: Inode) -> tuple[int, ...]:
        """Return the fields of ``fuse_attr``."""
        atime_s, atime_ns = divmod(inode.atime_ns, _NS)
        mtime_s, mtime_ns = divmod(inode.mtime_ns, _NS)
        ctime_s, ctime_ns = divmod(inode.ctime_ns, _NS)
        return (
            inode.ino,
            inode.size,
            inode.pages << 3,
            atime_s & _U64,
            mtime_s & _U64,
            ctime_s & _U64,
            atime_ns,
            mtime_ns,
            ctime_ns,
            inode.mode,
            inode.nlink,
            inode.uid if self._uid is None else self._uid,
            inode.gid if self._gid is None else self._gid,
            inode.rdev,
            PAGE_BYTES,
            0,
        )

    def _entry(self, inode: Inode) -> tuple[int, ...]:
        """Return the fields of ``fuse_entry_out``, and hold the inode for it."""
        self._volume.hold(inode.ino)
        head = (inode.ino, inode.generation, _VALID_S, _VALID_S, 0, 0)
        return head + self._attributes(inode)

    def _listed_entry(self, ino: int) -> tuple[int, ...]:
        """As `_entry`; a damaged inode does not hide the others, a lookup of it is the error."""
        try:
            return self._entry(self._volume.inode(ino))
        except PmemfsError:
            return _NOT_LOOKED_UP

    def _entry_reply(self, inode: Inode) -> bytes:
        return p.ENTRY_OUT.struct.pack(*self._entry(inode))

    def _attr_reply(self, inode: Inode) -> bytes:
        return p.ATTR_OUT.struct.pack(_VALID_S, 0, 0, *self._attributes(inode))

    def _lookup(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        inode = self._volume.find(nodeid, bytes(body[:-1]))
        return _NO_ENTRY if inode is None else self._entry_reply(inode)

    def _forget(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        self._release_node(nodeid, p.FORGET_IN.struct.unpack_from(body)[0])
        return None

    def _release_node(self, nodeid: int, count: int) -> None:
        self._refused.pop(nodeid, None)
        self._volume.release(nodeid, count)

    def _batch_forget(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        count = p.BATCH_FORGET_IN.struct.unpack_from(body)[0]
        for place in range(count):
            start = p.BATCH_FORGET_IN.size_bytes + place * p.FORGET_ONE.size_bytes
            self._release_node(*p.FORGET_ONE.struct.unpack_from(body, start))
        return None

    def _getattr(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        if nodeid in self._refused and _unpack_getattr(body)[0] & p.GETATTR_FH:
            # only a writer asks with its open file: see the opening on writeback
            raise PmemfsError(self._refused.pop(nodeid), "what was written before did not fit")
        return self._attr_reply(self._volume.inode(nodeid))

    def _setattr(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        (valid,) = _unpack_valid(body)
        if valid == _WRITTEN_BACK:
            return self._attr_reply(self._set_written_back(nodeid, body))
        request = p.SETATTR_IN.unpack(body)
        now = self._volume.options.clock.now_ns()

        def field(flag: int, name: str) -> int | None:
            return request[name] if valid & flag else None

        def stamp(flag: int, now_flag: int, name: str) -> int | None:
            if valid & now_flag:
                return now
            if not valid & flag:
                return None
            return _signed_ns(request[name], request[name + "nsec"])

        inode = self._volume.setattr(
            nodeid,
            mode=field(SetattrFlag.MODE, "mode"),
            uid=field(SetattrFlag.UID, "uid"),
            gid=field(SetattrFlag.GID, "gid"),
            size=field(SetattrFlag.SIZE, "size"),
            atime_ns=stamp(SetattrFlag.ATIME, SetattrFlag.ATIME_NOW, "atime"),
            mtime_ns=stamp(SetattrFlag.MTIME, SetattrFlag.MTIME_NOW, "mtime"),
            ctime_ns=stamp(SetattrFlag.CTIME, 0, "ctime"),
            # a request that changes nothing, or the ctime alone, is chown(2) to nobody else
            drop_privileges=bool(valid & SetattrFlag.KILL_SUIDGID)
            or not valid & ~SetattrFlag.CTIME,
        )
        return self._attr_reply(inode)

    def _set_written_back(self, nodeid: int, body: memoryview) -> Inode:
        """Take the times that the kernel keeps under writeback."""
        inode = self._volume.inode(nodeid)
        if not inode.nlink:  # it hands them in at each unlink, even the last
            return inode
        mtime_s, ctime_s, mtime_ns, ctime_ns = _unpack_times(body)
        return self._volume.setattr(
            nodeid, mtime_ns=_signed_ns(mtime_s, mtime_ns), ctime_ns=_signed_ns(ctime_s, ctime_ns)
        )

    def _statx(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        inode = self._volume.inode(nodeid)
        flags = self._volume.inode_flags(nodeid)
        return p.STATX_OUT.pack(
            attr_valid=_VALID_S,
            mask=p.STATX_BASIC_STATS | p.STATX_BTIME,
            blksize=PAGE_BYTES,
            attributes=flags,  # the values of STATX_ATTR_IMMUTABLE and _APPEND are the same
            attributes_mask=p.INODE_FLAGS,
            nlink=inode.nlink,
            uid=inode.uid if self._uid is None else self._uid,
            gid=inode.gid if self._gid is None else self._gid,
            mode=inode.mode,
            ino=inode.ino,
            size=inode.size,
            blocks=inode.pages << 3,
            **_statx_time("atime", inode.atime_ns),
            **_statx_time("btime", inode.btime_ns),
            **_statx_time("ctime", inode.ctime_ns),
            **_statx_time("mtime", inode.mtime_ns),
            rdev_major=os.major(inode.rdev),
            rdev_minor=os.minor(inode.rdev),
        )

    def _statfs(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        sizes = self._volume.statfs()
        return p.STATFS_OUT.pack(
            blocks=sizes.pages,
            bfree=sizes.free_pages,
            bavail=sizes.free_pages,
            files=sizes.inodes,
            ffree=sizes.free_inodes,
            bsize=sizes.page_bytes,
            namelen=NAME_MAX,
            frsize=sizes.page_bytes,
        )

    # -- names -------------------------------------------------------------------------------

    def _mknod(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        mode, rdev, umask, _ = p.MKNOD_IN.struct.unpack_from(body)
        name = bytes(body[p.MKNOD_IN.size_bytes : -1])
        inode = self._volume.create(nodeid, name, mode, uid, gid, rdev, umask=umask)
        return self._entry_reply(inode)

    def _mkdir(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        mode, umask = p.MKDIR_IN.struct.unpack_from(body)
        name = bytes(body[p.MKDIR_IN.size_bytes : -1])
        return self._entry_reply(self._volume.mkdir(nodeid, name, mode, uid, gid, umask=umask))

    def _symlink(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        name, target = bytes(body[:-1]).split(b"\0")
        return self._entry_reply(self._volume.symlink(nodeid, name, target, uid, gid))

    def _readlink(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        return self._volume.readlink(nodeid)

    def _link(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        (ino,) = p.LINK_IN.struct.unpack_from(body)
        name = bytes(body[p.LINK_IN.size_bytes : -1])
        return self._entry_reply(self._volume.link(ino, nodeid, name))

    def _unlink(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        self._volume.unlink(nodeid, bytes(body[:-1]))
        return b""

    def _rmdir(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        self._volume.rmdir(nodeid, bytes(body[:-1]))
        return b""

    def _rename(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        (new_parent,) = p.RENAME_IN.struct.unpack_from(body)
        old, new = bytes(body[p.RENAME_IN.size_bytes : -1]).split(b"\0")
        self._volume.rename(nodeid, old, new_parent, new)
        return b""

    def _rename2(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        new_parent, flags, _ = p.RENAME2_IN.struct.unpack_from(body)
        old, new = bytes(body[p.RENAME2_IN.size_bytes : -1]).split(b"\0")
        self._volume.rename(nodeid, old, new_parent, new, flags)
        return b""

    # -- open files (cache=none only) --------------------------------------------------------

    def _open_direct(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        return p.OPEN_OUT.pack(fh=0, open_flags=OpenFlag.DIRECT_IO)

    def _release(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        return b""

    def _create(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        _, mode, umask, _ = p.CREATE_IN.struct.unpack_from(body)
        name = bytes(body[p.CREATE_IN.size_bytes : -1])
        inode = self._volume.create(nodeid, name, mode, uid, gid, umask=umask)
        return self._opened(self._entry(inode))

    def _tmpfile(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        _, mode, umask, _ = p.CREATE_IN.struct.unpack_from(body)
        inode = self._volume.tmpfile(nodeid, mode, uid, gid, umask=umask)
        try:
            return self._opened(self._entry(inode))
        finally:
            self._volume.release(inode.ino)  # the entry holds it now

    def _opened(self, entry: tuple[int, ...]) -> bytes:
        flags = OpenFlag.DIRECT_IO if self._cache == "none" else OpenFlag.KEEP_CACHE
        return p.CREATE_OUT.struct.pack(*entry, 0, flags, 0)

    # -- data --------------------------------------------------------------------------------

    def _read(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        offset, size = _unpack_read(body)
        return self._volume.read(nodeid, offset, size)  # type: ignore[return-value]

    def _write(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        offset, size, flags = _unpack_write(body)
        volume = self._volume
        inode = volume.inode(nodeid)
        if flags & p.WRITE_KILL_SUIDGID or inode.xattr:
            volume.drop_privileges(nodeid, set_id=bool(flags & p.WRITE_KILL_SUIDGID))
        data = body[40 : 40 + size]
        if flags & _WRITE_CACHE:
            return self._write_cached(inode, offset, data)
        return _pack_written(volume.write(nodeid, offset, data), 0)

    def _write_cached(self, inode: Inode, offset: int, data: memoryview) -> Reply:
        """Store what the kernel had cached: all of it, or it hears an error."""
        pages = inode.pages
        stamp = self._cache != "writeback"
        written = 0
        try:
            while written < len(data):  # the kernel does not look at the count
                written += self._volume.write(
                    inode.ino, offset + written, data[written:], stamp=stamp
                )
        except PmemfsError as error:
            if error.errno != errno.ENOSPC or not self._may_postpone:
                self._refused[inode.ino] = error.errno or errno.EIO
                self._stale.add(inode.ino)
            raise
        if inode.pages != pages:
            self._stale.add(inode.ino)
        return _pack_written(written, 0)

    def _fallocate(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        _, offset, length, mode, _ = p.FALLOCATE_IN.struct.unpack_from(body)
        self._volume.fallocate(nodeid, mode, offset, length)
        return b""

    def _lseek(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        _, offset, whence, _ = p.LSEEK_IN.struct.unpack_from(body)
        found = self._volume.seek(nodeid, offset, data=whence == _SEEK_DATA)
        return p.LSEEK_OUT.struct.pack(found)

    def _copy_file_range(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        request = p.COPY_FILE_RANGE_IN.unpack(body)
        done = self._volume.copy_range(
            nodeid,
            request["off_in"],
            request["nodeid_out"],
            request["off_out"],
            request["length"],
        )
        return _pack_written(done, 0)

    # -- inode flags -------------------------------------------------------------------------

    def _ioctl(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        command = p.IOCTL_IN.unpack(body)["cmd"]
        data = body[p.IOCTL_IN.size_bytes :]
        answer = p.IOCTL_OUT.pack()
        if command == p.FS_IOC_GETFLAGS:
            return answer + self._volume.inode_flags(nodeid).to_bytes(4, "little")
        if command == p.FS_IOC_FSGETXATTR:
            # IMMUTABLE and APPEND are one bit lower among the extended flags
            return answer + p.FSXATTR.pack(xflags=self._volume.inode_flags(nodeid) >> 1)
        if command == p.FS_IOC_SETFLAGS:
            self._volume.set_inode_flags(nodeid, int.from_bytes(data[:4], "little"))
        elif command == p.FS_IOC_FSSETXATTR:
            self._volume.set_inode_flags(nodeid, int.from_bytes(data[:4], "little") << 1)
        else:
            raise PmemfsError(errno.ENOTTY, "no such ioctl")
        return answer

    # -- fsync -------------------------------------------------------------------------------

    def _fsync(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        """Flush and fence here, then let the other thread sync the host and reply."""
        self._volume.flush(nodeid)
        return self._sync_host()

    def _syncfs(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        self._volume.flush_all()
        return self._sync_host()

    def _sync_host(self) -> Reply:
        self._invalidate_stale()
        self._syncs.put(self._unique)
        return None

    def _run_syncs(self) -> None:
        while (unique := self._syncs.get()) is not None:
            try:
                self._volume.device.sync()
            except PmemfsError as error:
                self._failed_syncs.put((unique, error))
                self._wake(_SYNC_FAILED)
            else:
                self._write_device([_pack_out(16, 0, unique)])

    def _tell_failed_syncs(self) -> None:
        """Let the volume act on what the host could not make durable, then tell who waits."""
        while not self._failed_syncs.empty():
            unique, error = self._failed_syncs.get()
            self._volume.note_error(error)
            self._send_error(unique, error.errno or errno.EIO)

    # -- directories -------------------------------------------------------------------------

    def _readdir(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        after, size = _unpack_read(body)
        parts: list[Buffer] = []
        pack = p.DIRENT.struct.pack
        for name, ino, file_type, cookie in self._volume.readdir(nodeid, after):
            length = 24 + len(name)
            size -= (length + 7) & ~7
            if size < 0:
                break
            parts.append(pack(ino, cookie, len(name), file_type) + name + bytes(-length & 7))
        return b"".join(parts)

    def _readdirplus(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        after, size = _unpack_read(body)
        parts: list[Buffer] = []
        pack = p.DIRENTPLUS.struct.pack
        volume = self._volume
        for name, ino, file_type, cookie in volume.readdir(nodeid, after):
            length = 152 + len(name)
            size -= (length + 7) & ~7
            if size < 0:
                break
            # . and .. are not looked up by this
            entry = _NOT_LOOKED_UP if cookie <= 2 else self._listed_entry(ino)
            parts.append(
                pack(*entry, ino, cookie, len(name), file_type) + name + bytes(-length & 7)
            )
        return b"".join(parts)

    # -- extended attributes -----------------------------------------------------------------

    def _getxattr(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        (size, _) = p.GETXATTR_IN.struct.unpack_from(body)
        name = bytes(body[p.GETXATTR_IN.size_bytes : -1])
        return _sized(self._xattrs.get(uid, nodeid, name), size)

    def _listxattr(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        (size, _) = p.GETXATTR_IN.struct.unpack_from(body)
        names = self._xattrs.list(nodeid, lambda: is_admin(uid, *_unpack_pid(self._buffer)))
        return _sized(b"".join(name + b"\0" for name in names), size)

    def _setxattr(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        size, flags, more, _ = p.SETXATTR_IN.struct.unpack_from(body)
        rest = bytes(body[p.SETXATTR_IN.size_bytes :])
        name, _, value = rest.partition(b"\0")
        drop = bool(more & p.SETXATTR_ACL_KILL_SGID)
        self._xattrs.set(uid, nodeid, name, value[:size], flags, drop_set_gid=drop)
        if name in acl.NAMES and not self._checked:  # it may have changed the mode
            self._stale.add(nodeid)
        return b""

    def _removexattr(self, nodeid: int, uid: int, gid: int, body: memoryview) -> Reply:
        self._xattrs.remove(uid, nodeid, bytes(body[:-1]))
        return b""


def _signed_ns(seconds: int, nanoseconds: int) -> int:
    """Return a time of the protocol, whose seconds may be negative, in ns."""
    return (seconds - ((seconds >> 63) << 64)) * _NS + nanoseconds


def _statx_time(name: str, time_ns: int) -> dict[str, int]:
    seconds, nanoseconds = divmod(time_ns, _NS)
    return {f"{name}_s": seconds, f"{name}_ns": nanoseconds}


def _sized(data: bytes, size: int) -> bytes:
    """Answer an attribute request: its length when ``size`` is 0, else the bytes or ERANGE."""
    if not size:
        return p.GETXATTR_OUT.struct.pack(len(data), 0)
    if len(data) > size:
        raise PmemfsError(errno.ERANGE, "the buffer is too small")
    return data
