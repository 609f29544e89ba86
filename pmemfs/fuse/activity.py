"""Show who looks on what the daemon is doing: counters in a page of the device.

A front end counts the requests it serves in ``served``, by name or number, and calls
`Activity.store_if_due` in its idle step. What has changed is then stored, in one store, at most
once per second, unfenced: nobody but an inspector reads it, and only while the daemon lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pmemfs.fs import Volume
from pmemfs.fuse.protocol import Opcode
from pmemfs.layout.geometry import ACTIVITY_OFFSET
from pmemfs.layout.records import ACTIVITY, RequestKind

K = RequestKind

OF_OPCODE: Mapping[int, RequestKind] = {
    Opcode.LOOKUP: K.LOOKUP,
    Opcode.GETATTR: K.GETATTR,
    Opcode.STATX: K.GETATTR,
    Opcode.SETATTR: K.SETATTR,
    Opcode.READ: K.READ,
    Opcode.READLINK: K.READ,
    Opcode.WRITE: K.WRITE,
    Opcode.CREATE: K.CREATE,
    Opcode.MKNOD: K.CREATE,
    Opcode.MKDIR: K.CREATE,
    Opcode.SYMLINK: K.CREATE,
    Opcode.TMPFILE: K.CREATE,
    Opcode.UNLINK: K.REMOVE,
    Opcode.RMDIR: K.REMOVE,
    Opcode.RENAME: K.RENAME,
    Opcode.RENAME2: K.RENAME,
    Opcode.LINK: K.LINK,
    Opcode.READDIR: K.READDIR,
    Opcode.READDIRPLUS: K.READDIR,
    Opcode.GETXATTR: K.XATTR,
    Opcode.SETXATTR: K.XATTR,
    Opcode.LISTXATTR: K.XATTR,
    Opcode.REMOVEXATTR: K.XATTR,
    Opcode.FSYNC: K.SYNC,
    Opcode.FSYNCDIR: K.SYNC,
    Opcode.SYNCFS: K.SYNC,
    Opcode.FALLOCATE: K.SPACE,
    Opcode.LSEEK: K.SPACE,
    Opcode.COPY_FILE_RANGE: K.SPACE,
    Opcode.STATFS: K.STATFS,
    Opcode.FORGET: K.FORGET,
    Opcode.BATCH_FORGET: K.FORGET,
}

OF_CALLBACK: Mapping[str, RequestKind] = {
    "getattr": K.GETATTR,
    "fgetattr": K.GETATTR,
    "chmod": K.SETATTR,
    "chown": K.SETATTR,
    "utimens": K.SETATTR,
    "truncate": K.SETATTR,
    "ftruncate": K.SETATTR,
    "read": K.READ,
    "readlink": K.READ,
    "write": K.WRITE,
    "create": K.CREATE,
    "mknod": K.CREATE,
    "mkdir": K.CREATE,
    "symlink": K.CREATE,
    "unlink": K.REMOVE,
    "rmdir": K.REMOVE,
    "rename": K.RENAME,
    "link": K.LINK,
    "readdir": K.READDIR,
    "setxattr": K.XATTR,
    "getxattr": K.XATTR,
    "listxattr": K.XATTR,
    "removexattr": K.XATTR,
    "fsync": K.SYNC,
    "fsyncdir": K.SYNC,
    "statfs": K.STATFS,
}


class Activity:
    """The counters of one mount. ``served`` gives each request that was served, and how often."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._stored_s = 0
        self._stored: tuple[int, ...] = ()
        self._generation = volume.image.control()["generation"]

    def store_if_due(self, served: Iterable[tuple[RequestKind | None, int]]) -> None:
        """Store the counters if they have changed, and not in the same second as the last time."""
        clock, tables = self._volume.options.clock, self._volume.tables
        now_s = clock.now_s()
        if now_s == self._stored_s or tables is None or self._volume.is_read_only:
            return
        requests = [0] * len(RequestKind)
        for kind, count in served:
            requests[K.OTHER if kind is None else kind] += count
        counters = self._volume.device.counters
        # its own store is no change: a mount that nobody uses stores nothing
        changes = (tables.splits, tables.unsplits, tables.stolen, *requests)
        if changes == self._stored:
            return
        self._stored_s, self._stored = now_s, changes
        record = ACTIVITY.pack(
            generation=self._generation,
            stored_ns=clock.now_ns(),
            splits=tables.splits,
            unsplits=tables.unsplits,
            stolen=tables.stolen,
            stores=counters.stores,
            bytes_stored=counters.bytes_stored,
            lines_flushed=counters.lines_flushed,
            fences=counters.fences,
            requests=requests,
        )
        self._volume.device.store(ACTIVITY_OFFSET, record)
