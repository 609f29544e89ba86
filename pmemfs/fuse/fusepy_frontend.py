"""The fusepy front end: libfuse's path-based callbacks onto a `Volume`.

File handles are inode numbers. libfuse calls the methods below, by name, with raw ctypes
arguments; they override those of `fuse.FUSE`, which would decode paths and copy data: a read is
copied once, from the mapping into libfuse's buffer, and a write once, from libfuse's buffer to
the device. One lock stands around the Volume, for the one timer thread of `serve`.

libfuse renames a file that is removed while open to ``.fuse_hidden`` and 16 hex digits. The
adapter removes it for good instead, as POSIX wants, and remembers which inode that name stands
for until libfuse drops it.

What this API cannot carry: rename flags, fallocate, SEEK_DATA, tmpfile, inode flags; hard links
are separate inodes to the kernel, so an attribute changed through one name shows through the
other after ``attr_timeout``, and data through a descriptor that is open already maybe never;
a removed file that is still open has no stat(2) once its directory is removed, too;
requests are at most 128 KiB.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import fuse

from pmemfs.errors import PmemfsError
from pmemfs.fs import Inode, Volume
from pmemfs.fs.inodes import blocks_512
from pmemfs.fuse.activity import OF_CALLBACK, Activity
from pmemfs.fuse.attributes import Attributes
from pmemfs.fuse.callers import is_admin
from pmemfs.layout.geometry import NAME_MAX, PAGE_BYTES, ROOT_INO
from pmemfs.reclaim import Reclaimer

log = logging.getLogger("pmemfs.fuse")

# the callbacks libfuse gets; without flush and access the kernel stops asking
_OPERATIONS = (
    *("getattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link"),
    *("chmod", "chown", "truncate", "open", "read", "write", "statfs", "release", "fsync"),
    *("opendir", "readdir", "releasedir", "fsyncdir", "init", "create", "utimens"),
)
_XATTR_OPERATIONS = ("setxattr", "getxattr", "listxattr", "removexattr")
_FLAGS = ("flag_nullpath_ok", "flag_nopath", "flag_utime_omit_ok")

_HIDDEN = re.compile(rb"\.fuse_hidden[0-9a-f]{16}")
_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2
_NO_ID = 0xFFFFFFFF
_HIDDEN_LIMIT = 64
_SHARED_LIMIT = 1 << 16
_LATIN = "latin-1"  # maps every byte to one character and back


def _latin(text: str) -> str:
    """Return text as fusepy wants it, which encodes it with `_LATIN`."""
    return os.fsencode(text).decode(_LATIN)


def _split(path: bytes) -> tuple[bytes, bytes]:
    parent, _, name = path.rpartition(b"/")
    return parent, name


class FusepyFrontend(fuse.FUSE):
    """Serves one volume on one directory until it is unmounted.

    ``options`` are libfuse's mount options by name, True for those without a value. ``on_ready``
    is called when the kernel has answered.
    """

    def __init__(
        self,
        volume: Volume,
        directory: str,
        *,
        reclaimer: Reclaimer | None,
        options: dict[str, Any],
        xattrs: bool = True,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._volume = volume
        self._reclaimer = reclaimer
        self._xattrs = Attributes(volume, reclaimer)
        self._on_ready = on_ready
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._timer = threading.Thread(target=self._run_idle_work, name="idle", daemon=True)
        self._hidden: dict[bytes, int] = {}
        self._hidden_limit = _HIDDEN_LIMIT
        self._calls = 0
        self._served: dict[str, int] = {}
        self._hidden_last: tuple[int, bytes, int] | None = None  # the call, the name, the inode
        # files that have had several names and not been opened alone since: see `open`
        self._shared: set[int] = set()
        names = _OPERATIONS + (_XATTR_OPERATIONS if xattrs else ())
        implemented = SimpleNamespace(use_ns=True, **dict.fromkeys((*names, *_FLAGS), 1))
        text = _latin(directory)
        options = {k: _latin(v) if isinstance(v, str) else v for k, v in options.items()}
        try:
            super().__init__(
                implemented, text, encoding=_LATIN, foreground=True, nothreads=True, **options
            )
        except RuntimeError as error:
            raise PmemfsError(
                errno.EIO,
                f"libfuse could not mount on {directory}; its message is above or in the log",
            ) from error
        finally:
            self._stop.set()
            if self._timer.is_alive():
                self._timer.join()

    def _wrapper(self, func: Callable[..., int | None], *args: Any) -> int:
        """Run one callback under the lock; return its result or a negative errno."""
        try:
            with self._lock:
                self._calls += 1
                self._served[func.__name__] = self._served.get(func.__name__, 0) + 1
                return func(*args) or 0
        except OSError as error:
            return -(error.errno or errno.EIO)
        except Exception:
            log.exception("unexpected error in %s", func.__name__)
            return -errno.EIO

    def _run_idle_work(self) -> None:
        assert self._reclaimer is not None
        activity = Activity(self._volume)
        delay = 0.0
        while not self._stop.wait(delay):
            try:
                with self._lock:
                    delay = min(self._reclaimer.step(), 1.0)
                    activity.store_if_due(
                        (OF_CALLBACK.get(name), n) for name, n in self._served.items()
                    )
            except Exception:
                log.exception("unexpected error in idle work")
                delay = 10.0

    # -- paths -------------------------------------------------------------------------------

    def _inode(self, path: bytes) -> Inode:
        if self._hidden:
            ino = self._hidden.get(_split(path)[1])
            if ino is not None:
                return self._volume.inode(ino)
        return self._volume.resolve(path)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        parent, name = _split(path)
        return (self._volume.resolve(parent).ino if parent else ROOT_INO), name

    def _caller(self) -> tuple[int, int]:
        context = fuse._libfuse.fuse_get_context().contents
        return context.uid, context.gid

    # -- attributes --------------------------------------------------------------------------

    def init(self, connection: Any) -> None:
        """The kernel is there: start the idle work, tell who waits."""
        if self._reclaimer is not None:
            self._timer.start()
        self._on_ready()

    def getattr(self, path: bytes, buffer: Any) -> None:
        """stat(2)."""
        self._fill_stat(self._inode(path), buffer)
        if self._hidden and _split(path)[1] in self._hidden and buffer.contents.st_nlink:
            buffer.contents.st_nlink += 1  # libfuse takes one off for the name it has hidden

    def fgetattr(self, path: bytes | None, buffer: Any, info: Any) -> None:
        """fstat(2)."""
        self._fill_stat(self._volume.inode(info.contents.fh), buffer)

    @staticmethod
    def _fill_stat(inode: Inode, buffer: Any) -> None:
        ctypes.memset(buffer, 0, ctypes.sizeof(fuse.c_stat))
        st = buffer.contents
        st.st_ino = inode.ino
        st.st_mode = inode.mode
        st.st_nlink = inode.nlink
        st.st_uid = inode.uid
        st.st_gid = inode.gid
        st.st_rdev = inode.rdev
        st.st_size = inode.size
        st.st_blksize = PAGE_BYTES
        st.st_blocks = blocks_512(inode)
        for spec, time_ns in (
            (st.st_atimespec, inode.atime_ns),
            (st.st_mtimespec, inode.mtime_ns),
            (st.st_ctimespec, inode.ctime_ns),
        ):
            spec.tv_sec, spec.tv_nsec = divmod(time_ns, 10**9)

    def chmod(self, path: bytes, mode: int) -> None:
        """chmod(2)."""
        self._volume.setattr(self._inode(path).ino, mode=mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """chown(2)."""
        self._volume.setattr(
            self._inode(path).ino,
            uid=None if uid == _NO_ID else uid,
            gid=None if gid == _NO_ID else gid,
        )

    def utimens(self, path: bytes, buffer: Any) -> None:
        """utimensat(2), in nanoseconds, with UTIME_NOW and UTIME_OMIT."""
        now = self._volume.options.clock.now_ns()
        times: list[int | None] = [now, now]
        if buffer:
            for place, spec in enumerate((buffer.contents.actime, buffer.contents.modtime)):
                if spec.tv_nsec == _UTIME_OMIT:
                    times[place] = None
                elif spec.tv_nsec != _UTIME_NOW:
                    times[place] = spec.tv_sec * 10**9 + spec.tv_nsec
        self._volume.setattr(self._inode(path).ino, atime_ns=times[0], mtime_ns=times[1])

    def statfs(self, path: bytes, buffer: Any) -> None:
        """statvfs(3)."""
        sizes, st = self._volume.statfs(), buffer.contents
        st.f_bsize = st.f_frsize = sizes.page_bytes
        st.f_blocks, st.f_bfree, st.f_bavail = sizes.pages, sizes.free_pages, sizes.free_pages
        st.f_files, st.f_ffree, st.f_favail = sizes.inodes, sizes.free_inodes, sizes.free_inodes
        st.f_namemax = NAME_MAX

    # -- names -------------------------------------------------------------------------------

    def mknod(self, path: bytes, mode: int, rdev: int) -> None:
        """mknod(2)."""
        self._volume.create(*self._parent(path), mode, *self._caller(), rdev)

    def mkdir(self, path: bytes, mode: int) -> None:
        """mkdir(2)."""
        self._volume.mkdir(*self._parent(path), mode, *self._caller())

    def symlink(self, target: bytes, path: bytes) -> None:
        """symlink(2)."""
        self._volume.symlink(*self._parent(path), target, *self._caller())

    def readlink(self, path: bytes, buffer: Any, size: int) -> None:
        """readlink(2), ended by NUL as libfuse wants it."""
        target = self._volume.readlink(self._inode(path).ino)[: size - 1] + b"\0"
        ctypes.memmove(buffer, target, len(target))

    def link(self, old: bytes, new: bytes) -> None:
        """link(2)."""
        self._volume.link(self._inode(old).ino, *self._parent(new))

    def unlink(self, path: bytes) -> None:
        """unlink(2); of a hidden name, only forgets it."""
        if self._hidden.pop(_split(path)[1], None) is None:
            self._note_shared(path)
            self._volume.unlink(*self._parent(path))

    def rmdir(self, path: bytes) -> None:
        """rmdir(2)."""
        self._volume.rmdir(*self._parent(path))

    def rename(self, old: bytes, new: bytes) -> None:
        """rename(2); to a hidden name, removes the file and remembers its inode."""
        hidden = _split(new)[1]
        if _HIDDEN.fullmatch(hidden):
            inode = self._volume.resolve(old)
            if inode.ino in self._volume.inodes.holds and not inode.is_dir:
                self._note_shared(old)
                self._volume.unlink(*self._parent(old))
                self._forget_released()
                self._hidden[hidden] = inode.ino
                self._hidden_last = self._calls, old, inode.ino
                return
        if self._is_to_itself(old, new):
            self._volume.link(self._inode(old).ino, *self._parent(new))
            return
        self._note_shared(new)
        self._volume.rename(*self._parent(old), *self._parent(new))

    def _is_to_itself(self, old: bytes, new: bytes) -> bool:
        """Tell whether libfuse hid ``new`` just for this rename, and both are names of one file.

        They both stay then: so says rename(2). Any other request would be a call in between.
        """
        last = self._hidden_last
        if last is None or last[:2] != (self._calls - 1, new):
            return False
        return self._volume.resolve(old).ino == last[2]

    def _forget_released(self) -> None:
        """Forget hidden names that libfuse could not drop, because their directory went first."""
        if len(self._hidden) >= self._hidden_limit:
            holds = self._volume.inodes.holds
            self._hidden = {name: ino for name, ino in self._hidden.items() if ino in holds}
            self._hidden_limit = max(_HIDDEN_LIMIT, 2 * len(self._hidden))

    # -- data --------------------------------------------------------------------------------

    def create(self, path: bytes, mode: int, info: Any) -> None:
        """open(2) with O_CREAT of a name that is not there."""
        inode = self._volume.create(*self._parent(path), mode, *self._caller())
        self._volume.hold(inode.ino)
        info.contents.fh = inode.ino

    def open(self, path: bytes, info: Any) -> None:
        """open(2); drops what the kernel has cached, if another name may have changed the file.

        Nobody but the kernel writes, so its cache is right, except that it has one for each name.
        """
        inode = self._inode(path)
        ino = inode.ino
        self._volume.hold(ino)
        info.contents.fh = ino
        is_shared = inode.nlink > 1 or ino in self._shared or len(self._shared) >= _SHARED_LIMIT
        info.contents.keep_cache = not is_shared
        if inode.nlink == 1 and self._volume.inodes.holds[ino] == 1:
            self._shared.discard(ino)

    def _note_shared(self, path: bytes) -> None:
        """Remember a file that is about to lose one of several names."""
        try:
            inode = self._volume.resolve(path)
        except PmemfsError:
            return
        if inode.is_file and inode.nlink > 1 and len(self._shared) < _SHARED_LIMIT:
            self._shared.add(inode.ino)

    def release(self, path: bytes | None, info: Any) -> None:
        """The last close(2) of an open file."""
        self._volume.release(info.contents.fh)

    def read(self, path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> int:
        """pread(2): one copy, from the mapping."""
        target = (ctypes.c_char * size).from_address(ctypes.addressof(buffer.contents))
        view = memoryview(target).cast("B")
        done = 0
        for piece in self._volume.read(info.contents.fh, offset, size):
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def write(self, path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> int:
        """pwrite(2): one copy, to the device."""
        if info.contents.flags & os.O_APPEND:
            # the kernel knows one size for each name of a file, and so may be behind
            offset = self._volume.inode(info.contents.fh).size
        source = (ctypes.c_char * size).from_address(ctypes.addressof(buffer.contents))
        return self._volume.write(info.contents.fh, offset, memoryview(source).cast("B"))

    def truncate(self, path: bytes, size: int) -> None:
        """truncate(2)."""
        self._volume.setattr(self._inode(path).ino, size=size)

    def ftruncate(self, path: bytes | None, size: int, info: Any) -> None:
        """ftruncate(2)."""
        self._volume.setattr(info.contents.fh, size=size)

    def fsync(self, path: bytes | None, datasync: int, info: Any) -> None:
        """fsync(2) and fdatasync(2)."""
        self._volume.fsync(info.contents.fh)

    # -- directories -------------------------------------------------------------------------

    def opendir(self, path: bytes, info: Any) -> None:
        """opendir(3)."""
        inode = self._inode(path)
        if not inode.is_dir:
            raise PmemfsError(errno.ENOTDIR, "not a directory")
        self._volume.hold(inode.ino)
        info.contents.fh = inode.ino

    def releasedir(self, path: bytes | None, info: Any) -> None:
        """closedir(3)."""
        self._volume.release(info.contents.fh)

    def readdir(self, path: bytes | None, buffer: Any, fill: Any, offset: int, info: Any) -> None:
        """readdir(3): libfuse keeps the whole listing, so it stays as it was when it began."""
        st = fuse.c_stat()
        for entry in self._volume.readdir(info.contents.fh):
            st.st_ino = entry.ino
            st.st_mode = entry.type << 12
            if fill(buffer, entry.name, st, 0):
                break

    def fsyncdir(self, path: bytes | None, datasync: int, info: Any) -> None:
        """fsync(2) of a directory: names are durable already, the host's copy is not."""
        self._volume.fsync(info.contents.fh)

    # -- extended attributes -----------------------------------------------------------------

    def getxattr(self, path: bytes, name: bytes, buffer: Any, size: int) -> int:
        """getxattr(2)."""
        uid, _ = self._caller()
        return _reply(self._xattrs.get(uid, self._inode(path).ino, name), buffer, size)

    def listxattr(self, path: bytes, buffer: Any, size: int) -> int:
        """listxattr(2)."""
        caller = fuse._libfuse.fuse_get_context().contents
        asks = partial(is_admin, caller.uid, caller.pid)
        names = self._xattrs.list(self._inode(path).ino, asks)
        return _reply(b"".join(name + b"\0" for name in names), buffer, size)

    def setxattr(self, path: bytes, name: bytes, value: Any, size: int, flags: int) -> None:
        """setxattr(2)."""
        data = ctypes.string_at(value, size)
        uid, _ = self._caller()
        self._xattrs.set(uid, self._inode(path).ino, name, data, flags)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """removexattr(2)."""
        uid, _ = self._caller()
        self._xattrs.remove(uid, self._inode(path).ino, name)


def _reply(data: bytes, buffer: Any, size: int) -> int:
    """Copy an attribute out; a ``size`` of 0 asks for the length only."""
    if size:
        if len(data) > size:
            raise PmemfsError(errno.ERANGE, "the buffer is too small")
        ctypes.memmove(buffer, data, len(data))
    return len(data)
