"""Mount options as people write them after ``-o``, checked, in the words of each front end."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Any

from pmemfs.errors import PmemfsError
from pmemfs.fs.damage import ERRORS, Errors
from pmemfs.fs.placement import DEFAULT_THRESHOLD_PAGES, threshold_pages
from pmemfs.layout.records import Persist
from pmemfs.reclaim.plan import LEAST_CAP

HELP = """\
ro, rw                 read-only: writes nothing, not even the journal's replay; or not
idle=SECONDS           give page descriptors back after this time (30)
descriptors=NUMBER     keep at most so many page descriptors, 512 or more; they come by 512 for
                       each split extent, and above that the coldest extents go first
noatime, relatime      do not keep access times (default), or as relatime does
promote=PERCENT        a 2 MiB piece of a file becomes a whole extent when this much of it is
                       populated (56)
cache=MODE             writeback, writethrough or none: what the kernel keeps of file data
                       (native: writeback; fusepy: writethrough, or none)
errors=ACTION          on damage found while mounted: remount-ro (default), so that changes are
                       refused and reads go on; or continue
persist=MODE           cache: what is durable survives the daemon's death (default); disk: the
                       host's power loss too; each change waits for the host's disk twice
fsname=NAME            show this in place of the image in mount, df and /proc/mounts
subtype=NAME           show fuse.NAME there as the type, in place of fuse.pmemfs
uid=N, gid=N           show all files as owned by this user or group
noxattr                no extended attributes
attr_timeout=SECONDS   fusepy only: how long the kernel keeps attributes (1)
allow_other            let other users in
default_permissions    let the kernel check permissions; on unless only root is let in
dev, suid, exec, sync, dirsync and their no-forms as for mount(8)"""

# option: (flag of mount(2), whether the flag is wanted)
KERNEL_FLAGS = {
    "suid": (2, False),
    "nosuid": (2, True),
    "dev": (4, False),
    "nodev": (4, True),
    "exec": (8, False),
    "noexec": (8, True),
    "sync": (16, True),
    "async": (16, False),
    "dirsync": (128, True),
}
SUBTYPE = "pmemfs"
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
CACHE_MODES = ("writeback", "writethrough", "none")
PERSIST_MODES = {mode.name.lower(): mode for mode in Persist}
_SWITCHES = {
    "ro", "rw", "noatime", "relatime", "noxattr", "allow_other", "default_permissions",
}  # fmt: skip
_IGNORED = {"rw", "defaults", "auto", "noauto", "user", "nouser", "users", "_netdev", "nofail"}


@dataclass
class MountOptions:
    """Checked options, for any front end. ``cache`` is None unless it was asked for.

    ``fsname`` is the source that the kernel's table shows, ``subtype`` stands in its type.
    """

    fsname: str
    subtype: str = SUBTYPE
    read_only: bool = False
    idle_s: float = 30.0
    most_descriptors: int | None = None
    relatime: bool = False
    threshold_pages: int = DEFAULT_THRESHOLD_PAGES
    xattrs: bool = True
    cache: str | None = None
    persist: Persist = Persist.CACHE
    errors: Errors = "remount-ro"
    attr_timeout_s: float = 1.0
    uid: int | None = None
    gid: int | None = None
    allow_other: bool = False
    default_permissions: bool = False
    kernel: list[str] = field(default_factory=list)

    @property
    def mount_flags(self) -> int:
        """The flags of mount(2): nosuid and nodev unless asked otherwise."""
        flags = MS_NOSUID | MS_NODEV | (MS_RDONLY if self.read_only else 0)
        for name in self.kernel:
            bit, wanted = KERNEL_FLAGS[name]
            flags = flags | bit if wanted else flags & ~bit
        return flags

    @property
    def kind(self) -> str:
        """The type that the kernel's table shows."""
        return f"fuse.{self.subtype}"

    @property
    def escaped_fsname(self) -> str:
        """The source as it stands in a list of options, for libfuse and fusermount3."""
        return self.fsname.replace("\\", "\\\\").replace(",", "\\,")

    def for_libfuse(self) -> dict[str, Any]:
        """Return libfuse 2's options by name, True for those without a value."""
        if self.cache == "writeback":
            raise PmemfsError(errno.EINVAL, "cache=writeback needs --frontend native")
        options: dict[str, Any] = {
            "fsname": self.escaped_fsname,
            "subtype": self.subtype,
            "use_ino": True,
            "big_writes": True,
            "nonempty": True,
            "entry_timeout": 3600,
            "negative_timeout": 3600,
            "attr_timeout": self.attr_timeout_s,
        }
        switches = {
            "direct_io": self.cache == "none",
            "ro": self.read_only,
            "allow_other": self.allow_other,
            "default_permissions": self.default_permissions,
        }
        options |= {n: v for n, v in (("uid", self.uid), ("gid", self.gid)) if v is not None}
        options |= {name: True for name, wanted in switches.items() if wanted}
        return options | dict.fromkeys(self.kernel, True)


def parse(texts: list[str], image: str) -> MountOptions:
    """Parse ``-o`` values; raises `PmemfsError` with EINVAL that names what is wrong."""
    options = MountOptions(fsname=image)
    for text in texts:
        for option in filter(None, text.split(",")):
            name, equals, value = option.partition("=")
            _apply(options, name, value if equals else None)
    options.default_permissions |= options.allow_other or os.geteuid() != 0
    return options


def _apply(options: MountOptions, name: str, value: str | None) -> None:
    if value is not None and (name in _SWITCHES or name in KERNEL_FLAGS):
        raise PmemfsError(errno.EINVAL, f"the mount option {name} takes no value")
    if name == "ro":
        options.read_only = True
    elif name in ("noatime", "relatime"):
        options.relatime = name == "relatime"
    elif name == "idle":
        options.idle_s = _number(name, value, 0, 10**6)
    elif name == "descriptors":
        options.most_descriptors = _whole_number(name, value, LEAST_CAP, 2**40)
    elif name == "promote":
        options.threshold_pages = threshold_pages(_number(name, value, 1, 100))
    elif name == "cache":
        if value not in CACHE_MODES:
            raise PmemfsError(errno.EINVAL, f"cache is one of {', '.join(CACHE_MODES)}")
        options.cache = value
    elif name == "errors":
        if value not in ERRORS:
            raise PmemfsError(errno.EINVAL, f"errors is one of {', '.join(ERRORS)}")
        options.errors = ERRORS[ERRORS.index(value)]
    elif name == "persist":
        if value not in PERSIST_MODES:
            raise PmemfsError(errno.EINVAL, f"persist is one of {', '.join(PERSIST_MODES)}")
        options.persist = PERSIST_MODES[value]
    elif name == "noxattr":
        options.xattrs = False
    elif name == "attr_timeout":
        options.attr_timeout_s = _number(name, value, 0, 10**9)
    elif name in ("fsname", "subtype"):
        if not value:
            raise PmemfsError(errno.EINVAL, f"the mount option {name} wants a name")
        setattr(options, name, value)
    elif name in ("uid", "gid"):
        setattr(options, name, _whole_number(name, value, 0, 2**32 - 2))
    elif name in ("allow_other", "default_permissions"):
        setattr(options, name, True)
    elif name in KERNEL_FLAGS:
        options.kernel.append(name)
    elif name not in _IGNORED and not name.startswith("x-"):
        raise PmemfsError(
            errno.EINVAL, f"unknown mount option '{name}'; pmemfs mount --help lists them"
        )


def _whole_number(name: str, value: str | None, least: int, most: int) -> int:
    text = value or ""
    is_whole = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if not (is_whole and least <= int(text) <= most):
        raise PmemfsError(
            errno.EINVAL, f"the mount option {name} wants a whole number from {least} to {most}"
        )
    return int(text)


def _number(name: str, value: str | None, least: float, most: float) -> float:
    try:
        number = float(value or "")
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise PmemfsError(
            errno.EINVAL, f"the mount option {name} wants a number from {least:.0f} to {most:.0f}"
        )
    return number
