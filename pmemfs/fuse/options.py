"""Mount options as people write them after ``-o``, checked and sorted by who wants them."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

from pmemfs.errors import PmemfsError
from pmemfs.layout.geometry import PAGES_PER_EXTENT

HELP = """\
ro, rw                 read-only: writes nothing, not even the journal's replay; or not
idle=SECONDS           give page descriptors back after this time (30)
noatime, relatime      do not keep access times (default), or as relatime does
promote=PERCENT        a 2 MiB piece of a file becomes a whole extent when this much of it is
                       populated (50)
cache=auto, none       let the kernel cache file data (default), or pass every read and write
noxattr                no extended attributes: saves one request for every write
attr_timeout=SECONDS   how long the kernel keeps attributes (1; see the README about hard links)
allow_other            let other users in; switches default_permissions on
default_permissions    let the kernel check permissions
dev, suid, exec, sync and their no-forms, fsname=, subtype= as for mount(8)"""

_KERNEL_FLAGS = {
    "dev", "nodev", "suid", "nosuid", "exec", "noexec", "sync", "async", "dirsync"
}  # fmt: skip
_IGNORED = {"rw", "defaults", "auto", "noauto", "user", "nouser", "users", "_netdev", "nofail"}


@dataclass
class MountOptions:
    """Checked options. ``fuse`` holds libfuse's own by name."""

    read_only: bool = False
    idle_s: float = 30.0
    relatime: bool = False
    threshold_pages: int = PAGES_PER_EXTENT // 2
    xattrs: bool = True
    fuse: dict[str, Any] = field(default_factory=dict)


def parse(texts: list[str], image: str) -> MountOptions:
    """Parse ``-o`` values; raises `PmemfsError` with EINVAL that names what is wrong."""
    options = MountOptions()
    options.fuse = {
        "fsname": image.replace("\\", "\\\\").replace(",", "\\,"),
        "subtype": "pmemfs",
        "use_ino": True,
        "big_writes": True,
        "nonempty": True,
        "auto_cache": True,
        "entry_timeout": 3600,
        "negative_timeout": 3600,
        "attr_timeout": 1,
    }
    for text in texts:
        for option in filter(None, text.split(",")):
            name, equals, value = option.partition("=")
            _apply(options, name, value if equals else None)
    if "allow_other" in options.fuse:
        options.fuse["default_permissions"] = True
    return options


def _apply(options: MountOptions, name: str, value: str | None) -> None:
    if name == "ro":
        options.read_only = options.fuse["ro"] = True
    elif name in ("noatime", "relatime"):
        options.relatime = name == "relatime"
    elif name == "idle":
        options.idle_s = _number(name, value, 0, 10**6)
    elif name == "promote":
        options.threshold_pages = max(
            1, round(_number(name, value, 1, 100) * PAGES_PER_EXTENT / 100)
        )
    elif name == "cache":
        _apply_cache(options, value)
    elif name == "noxattr":
        options.xattrs = False
    elif name == "attr_timeout":
        options.fuse[name] = _number(name, value, 0, 10**9)
    elif name in ("allow_other", "default_permissions") or name in _KERNEL_FLAGS:
        options.fuse[name] = True
    elif name in ("fsname", "subtype") and value:
        options.fuse[name] = value
    elif name not in _IGNORED:
        raise PmemfsError(
            errno.EINVAL, f"unknown mount option '{name}'; pmemfs mount --help lists them"
        )


def _apply_cache(options: MountOptions, value: str | None) -> None:
    if value == "none":
        options.fuse["direct_io"] = True
        options.fuse.pop("auto_cache", None)
    elif value != "auto":
        raise PmemfsError(errno.EINVAL, "cache is auto or none")


def _number(name: str, value: str | None, least: float, most: float) -> float:
    try:
        number = float(value or "")
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise PmemfsError(
            errno.EINVAL, f"the mount option {name} wants a number from {least:g} to {most:g}"
        )
    return number
