"""The messages of the kernel's FUSE protocol, version 7.39, each declared once.

Names, order and meaning are those of ``linux/fuse.h``. Sizes are asserted; there is no padding
that is not a field. A message that ends in a name or in data is declared up to there.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from pmemfs.layout.record import Field, Record

VERSION = (7, 39)
OLDEST_MINOR = 31
"""Before 7.31 (Linux 5.4) requests lack what this front end relies on."""


def _message(name: str, size_bytes: int, fields: str) -> Record:
    """Declare a message; fields are ``name:type`` words, ``name:type*count`` for arrays."""
    declared = []
    for word in fields.split():
        field, _, kind = word.partition(":")
        kind, _, count = kind.partition("*")
        declared.append(Field(field, kind, "see linux/fuse.h", "fresh", int(count or 1)))
    return Record(name, size_bytes, "see linux/fuse.h", declared)


_ATTR = (
    "ino:u64 size:u64 blocks:u64 atime:u64 mtime:u64 ctime:u64 atimensec:u32 mtimensec:u32 "
    "ctimensec:u32 mode:u32 nlink:u32 uid:u32 gid:u32 rdev:u32 blksize:u32 flags:u32 "
)
_ENTRY = (
    "nodeid:u64 generation:u64 entry_valid:u64 attr_valid:u64 entry_valid_nsec:u32 "
    "attr_valid_nsec:u32 "
)
_DIRENT = "dirent_ino:u64 off:u64 namelen:u32 type:u32"

IN_HEADER = _message(
    "fuse_in_header",
    40,
    "len:u32 opcode:u32 unique:u64 nodeid:u64 uid:u32 gid:u32 pid:u32 total_extlen:u16 padding:u16",
)
OUT_HEADER = _message("fuse_out_header", 16, "len:u32 error:i32 unique:u64")
INIT_IN = _message(
    "fuse_init_in",
    64,
    "major:u32 minor:u32 max_readahead:u32 flags:u32 flags2:u32 unused:u32*11",
)
INIT_OUT = _message(
    "fuse_init_out",
    64,
    "major:u32 minor:u32 max_readahead:u32 flags:u32 max_background:u16 congestion_threshold:u16 "
    "max_write:u32 time_gran:u32 max_pages:u16 map_alignment:u16 flags2:u32 unused:u32*7",
)
ENTRY_OUT = _message("fuse_entry_out", 128, _ENTRY + _ATTR)
ATTR_OUT = _message("fuse_attr_out", 104, "attr_valid:u64 attr_valid_nsec:u32 dummy:u32 " + _ATTR)
DIRENT = _message("fuse_dirent", 24, _DIRENT)
DIRENTPLUS = _message("fuse_direntplus", 152, _ENTRY + _ATTR + _DIRENT)
OPEN_OUT = _message("fuse_open_out", 16, "fh:u64 open_flags:u32 padding:u32")
CREATE_OUT = _message("fuse_create_out", 144, _ENTRY + _ATTR + "fh:u64 open_flags:u32 padding:u32")
FORGET_IN = _message("fuse_forget_in", 8, "nlookup:u64")
FORGET_ONE = _message("fuse_forget_one", 16, "nodeid:u64 nlookup:u64")
BATCH_FORGET_IN = _message("fuse_batch_forget_in", 8, "count:u32 dummy:u32")
MKNOD_IN = _message("fuse_mknod_in", 16, "mode:u32 rdev:u32 umask:u32 padding:u32")
MKDIR_IN = _message("fuse_mkdir_in", 8, "mode:u32 umask:u32")
CREATE_IN = _message("fuse_create_in", 16, "flags:u32 mode:u32 umask:u32 open_flags:u32")
RENAME_IN = _message("fuse_rename_in", 8, "newdir:u64")
RENAME2_IN = _message("fuse_rename2_in", 16, "newdir:u64 flags:u32 padding:u32")
LINK_IN = _message("fuse_link_in", 8, "oldnodeid:u64")
SETATTR_IN = _message(
    "fuse_setattr_in",
    88,
    "valid:u32 padding:u32 fh:u64 size:u64 lock_owner:u64 atime:u64 mtime:u64 ctime:u64 "
    "atimensec:u32 mtimensec:u32 ctimensec:u32 mode:u32 unused4:u32 uid:u32 gid:u32 unused5:u32",
)
GETATTR_IN = _message("fuse_getattr_in", 16, "getattr_flags:u32 dummy:u32 fh:u64")
OPEN_IN = _message("fuse_open_in", 8, "flags:u32 open_flags:u32")
READ_IN = _message(
    "fuse_read_in",
    40,
    "fh:u64 offset:u64 size:u32 read_flags:u32 lock_owner:u64 flags:u32 padding:u32",
)
WRITE_IN = _message(
    "fuse_write_in",
    40,
    "fh:u64 offset:u64 size:u32 write_flags:u32 lock_owner:u64 flags:u32 padding:u32",
)
WRITE_OUT = _message("fuse_write_out", 8, "size:u32 padding:u32")
STATFS_OUT = _message(
    "fuse_statfs_out",
    80,
    "blocks:u64 bfree:u64 bavail:u64 files:u64 ffree:u64 bsize:u32 namelen:u32 frsize:u32 "
    "padding:u32 spare:u32*6",
)
SETXATTR_IN = _message("fuse_setxattr_in", 16, "size:u32 flags:u32 setxattr_flags:u32 padding:u32")
GETXATTR_IN = _message("fuse_getxattr_in", 8, "size:u32 padding:u32")
GETXATTR_OUT = _message("fuse_getxattr_out", 8, "size:u32 padding:u32")
FALLOCATE_IN = _message(
    "fuse_fallocate_in", 32, "fh:u64 offset:u64 length:u64 mode:u32 padding:u32"
)
LSEEK_IN = _message("fuse_lseek_in", 24, "fh:u64 offset:u64 whence:u32 padding:u32")
LSEEK_OUT = _message("fuse_lseek_out", 8, "offset:u64")
COPY_FILE_RANGE_IN = _message(
    "fuse_copy_file_range_in",
    56,
    "fh_in:u64 off_in:u64 nodeid_out:u64 fh_out:u64 off_out:u64 length:u64 flags:u64",
)
IOCTL_IN = _message(
    "fuse_ioctl_in", 32, "fh:u64 flags:u32 cmd:u32 arg:u64 in_size:u32 out_size:u32"
)
IOCTL_OUT = _message("fuse_ioctl_out", 16, "result:i32 flags:u32 in_iovs:u32 out_iovs:u32")
FSXATTR = _message(
    "fsxattr", 28, "xflags:u32 extsize:u32 nextents:u32 projid:u32 cowextsize:u32 pad:u32*2"
)
STATX_OUT = _message(
    "fuse_statx_out",
    288,
    "attr_valid:u64 attr_valid_nsec:u32 out_flags:u32 spare1:u64*2 "
    "mask:u32 blksize:u32 attributes:u64 nlink:u32 uid:u32 gid:u32 mode:u16 spare2:u16 "
    "ino:u64 size:u64 blocks:u64 attributes_mask:u64 "
    "atime_s:i64 atime_ns:u32 spare3:u32 btime_s:i64 btime_ns:u32 spare4:u32 "
    "ctime_s:i64 ctime_ns:u32 spare5:u32 mtime_s:i64 mtime_ns:u32 spare6:u32 "
    "rdev_major:u32 rdev_minor:u32 dev_major:u32 dev_minor:u32 spare7:u64*14",
)
NOTIFY_INVAL_INODE_OUT = _message("fuse_notify_inval_inode_out", 24, "ino:u64 off:i64 length:i64")

ROOT_NODEID = 1
NOTIFY_INVAL_INODE = 2


class Opcode(IntEnum):
    """What a request asks for; names of ``enum fuse_opcode`` without the prefix."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


class InitFlag(IntFlag):
    """What kernel and server agree on at INIT."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36


class SetattrFlag:
    """Which fields of ``fuse_setattr_in`` are meant; plain integers, for the hot path."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class OpenFlag:
    """What the reply to OPEN or OPENDIR allows the kernel; plain integers."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    PARALLEL_DIRECT_WRITES = 1 << 6


STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
INODE_FLAGS = 0x30
GETATTR_FH = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
OPEN_KILL_SUIDGID = 1 << 0
SETXATTR_ACL_KILL_SGID = 1 << 0
