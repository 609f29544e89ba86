"""The view ``file PATH``: an inode, and where what it holds lies, piece by piece."""

from __future__ import annotations

import stat
from typing import Any

from pmemfs.errors import DamagedImageError
from pmemfs.inspect.directory import Walk, resolve
from pmemfs.inspect.filemap import FileMap
from pmemfs.inspect.inodes import Inode, Inodes, read_target, type_name
from pmemfs.inspect.reader import Reader
from pmemfs.inspect.text import decode_name
from pmemfs.layout.geometry import PAGE_BYTES, offset_to_extent
from pmemfs.layout.records import MapKind

MAP_KIND_NAMES = {int(kind): kind.name.lower() for kind in MapKind}


def file(reader: Reader, path: bytes) -> dict[str, Any]:
    """Return one inode by its path inside the image, or by number as ``<17>``.

    ``pieces`` tells where a file lies, ``directory`` the pages of a directory, ``target`` where
    a symbolic link points. Pages not mentioned are holes. Raises `PmemfsError` if the path
    leads nowhere.
    """
    inodes = Inodes(reader)
    inode = resolve(inodes, path)
    fields = {name: value for name, value in inode.items() if not name.startswith("reserved")}
    return {
        "path": decode_name(path),
        "ino": inode["ino"],
        "type": type_name(inode["mode"]),
        "inode_offset": inodes.offset(inode["ino"]),
        "inode_extent": offset_to_extent(inodes.offset(inode["ino"])),
        "inode": fields,
        "map_kind": MAP_KIND_NAMES.get(inode["map_kind"], "unknown"),
        **_contents(reader, inode),
    }


def _contents(reader: Reader, inode: Inode) -> dict[str, Any]:
    out: dict[str, Any] = {
        "pieces": [],
        "map_nodes": [],
        "mapped_pages": 0,
        "hole_pages": 0,
        "target": None,
        "directory": None,
    }
    if stat.S_ISREG(inode["mode"]):
        out |= _file_map(reader, inode)
    elif stat.S_ISDIR(inode["mode"]):
        out["directory"] = _directory(reader, inode)
    elif stat.S_ISLNK(inode["mode"]):
        out["target"] = _target(reader, inode)
    return out


def _file_map(reader: Reader, inode: Inode) -> dict[str, Any]:
    found = FileMap(reader, inode)
    if found.mapped != inode["pages"]:
        reader.remark(
            f"inode {inode['ino']} counts {inode['pages']} pages, its map has {found.mapped}"
        )
    size_pages = -(-inode["size"] // PAGE_BYTES)
    return {
        "pieces": found.pieces,
        "map_nodes": found.nodes,
        "mapped_pages": found.mapped,
        "hole_pages": max(size_pages - found.mapped, 0),
    }


def _directory(reader: Reader, inode: Inode) -> dict[str, Any]:
    walk = Walk(reader, inode)
    if walk.entries != inode["entries"]:
        reader.remark(
            f"directory {inode['ino']} counts {inode['entries']} entries, its leaves {walk.entries}"
        )
    return {"entries": walk.entries, "pages": walk.pages}


def _target(reader: Reader, inode: Inode) -> str | None:
    try:
        return decode_name(read_target(reader, inode))
    except DamagedImageError as error:
        reader.remark(str(error))
        return None
