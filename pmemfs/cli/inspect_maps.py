"""The views of one thing as text for people: extent, page, file."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

from pmemfs.cli.inspect_text import format_ns, format_time, meaning
from pmemfs.cli.table import facts, heading, line, table
from pmemfs.inspect.heads import kind_name
from pmemfs.layout.records import HEAD, INODE
from pmemfs.units import count, format_size

Data = dict[str, Any]

PIECE_PAGES = 512


# -- extent ----------------------------------------------------------------------------------


def render_extent(data: Data) -> None:
    """Write the view ``extent``."""
    first = data["first_pfn"]
    heading(f"Extent {data['extent']}: {data['kind']}, pfn {first} to {first + PIECE_PAGES - 1}")
    fields = [field for field in HEAD.fields if not field.name.startswith("reserved")]
    table(
        ["field", ">value", "meaning"],
        [(f.name, _head_value(f.name, data["head"][f.name]), meaning(f)) for f in fields],
    )
    facts(
        [
            ("checksum", "right" if data["checksum_valid"] else "WRONG"),
            ("transient half", "current" if data["current"] else "of another mount: void"),
            ("split", f"table at pfn {data['table_pfn']}" if data["split"] else "no"),
        ]
    )
    if "pages" in data:
        _render_pages(data)
    elif "tables" in data:
        _render_tables(data["tables"])
    elif "inodes" in data:
        heading("Inodes")
        facts((name.replace("_", " "), value) for name, value in data["inodes"].items())
    elif "holds" in data:
        line(f"  holds the {data['holds']}")


def _head_value(name: str, value: int) -> str:
    if name == "kind":
        return f"{value} {kind_name(value)}"
    return hex(value) if name in ("checksum", "table") else str(value)


def _render_pages(data: Data) -> None:
    owned = count(data["head"]["used"], "page", "pages")
    heading(f"Owner page: {owned} owned, {data['free_pages']} free")
    table(
        [">page", ">pfn", ">inode", ">index", "role", "descriptor", "last access", ">wear"],
        [_page_row(page) for page in data["pages"]],
    )


def _page_row(page: Data) -> tuple[Any, ...]:
    descriptor = page["descriptor"] or {}
    return (
        page["slot"],
        page["pfn"],
        page["ino"],
        page["index"],
        page["role"],
        _flags(descriptor) if descriptor else None,
        format_time(descriptor.get("access_s")),
        descriptor.get("wear"),
    )


def _flags(descriptor: Data) -> str:
    set_ = [name for name in ("dirty", "referenced") if descriptor[name]]
    return ", ".join(set_) or "touched"


def _render_tables(tables: list[Data]) -> None:
    heading(f"Split tables: {len(tables)} of 64")
    table([">table pfn", ">of extent"], [(row["table_pfn"], row["extent"]) for row in tables])


# -- page ------------------------------------------------------------------------------------


def render_page(data: Data) -> None:
    """Write the view ``page``."""
    heading(f"pfn {data['pfn']}: page {data['slot']} of extent {data['extent']}")
    table(
        [">step", "look at", ">offset", "finds"],
        [
            (number, step["look"], hex(step["offset"]), step["finds"])
            for number, step in enumerate(data["steps"], 1)
        ],
    )
    line("")
    facts(
        [
            ("state", data["state"]),
            ("found by", data["found_by"]),
            ("holds", data["holds"]),
            *_owner_facts(data),
        ]
    )


def _owner_facts(data: Data) -> Iterator[tuple[str, Any]]:
    if data["ino"] is not None:
        yield "inode", data["ino"]
    if data["index"] is not None:
        yield "page of the file", data["index"]
    if data["role"]:
        yield "role", data["role"]
    if data["descriptor"]:
        descriptor = data["descriptor"]
        yield "descriptor", _flags(descriptor)
        yield "last access", format_time(descriptor["access_s"])
        yield "wear", f"{count(descriptor['wear'], 'line', 'lines')} since the split"


# -- file ------------------------------------------------------------------------------------


def render_file(data: Data) -> None:
    """Write the view ``file``."""
    heading(f"{data['path']}: {data['type']}, inode {data['ino']}")
    facts(_inode_facts(data))
    if data["target"] is not None:
        facts([("points to", data["target"])])
    if data["directory"]:
        _render_directory(data["directory"])
    if data["pieces"]:
        heading(
            f"{count(data['mapped_pages'], 'page', 'pages')}, "
            f"{count(data['hole_pages'], 'page', 'pages')} of holes, "
            f"{count(len(data['map_nodes']), 'map node', 'map nodes')}"
        )
        _render_pieces(data["pieces"])


def _inode_facts(data: Data) -> Iterator[tuple[str, Any]]:
    inode = data["inode"]
    yield "lies in", f"extent {data['inode_extent']}, device offset {data['inode_offset']:#x}"
    yield "mode", f"{stat.filemode(inode['mode'])} ({inode['mode']:#o})"
    yield "links", inode["nlink"]
    yield "owner", f"uid {inode['uid']}, gid {inode['gid']}"
    yield "size", f"{format_size(inode['size'])} ({count(inode['size'], 'byte', 'bytes')})"
    yield "map", f"{data['map_kind']}, height {inode['map_height']}"
    for field in INODE.fields:
        if field.name.endswith("_ns"):
            yield field.meaning.split(",")[0], format_ns(inode[field.name])
    if inode["xattr"]:
        yield "extended attributes", f"pfn {inode['xattr']}"


def _render_directory(directory: Data) -> None:
    entries = count(directory["entries"], "entry", "entries")
    heading(f"Directory: {entries} in {count(len(directory['pages']), 'page', 'pages')}")
    table(
        [">pfn", "role", ">bits shared", ">entries"],
        [(p["pfn"], p["role"], p["depth"], p["entries"]) for p in directory["pages"]],
    )


def _render_pieces(pieces: list[Data]) -> None:
    table(
        [">piece", ">first page", ">pages", "lies in", ">extent", ">pfn"],
        [row for piece in pieces for row in _piece_rows(piece)],
    )


def _piece_rows(piece: Data) -> Iterator[tuple[Any, ...]]:
    first, n = piece["piece"], piece["count"]
    if piece["kind"] == "whole":
        what = "a whole extent" if n == 1 else f"{n} whole extents"
        pages, pfn = n * PIECE_PAGES, piece["extent"] * PIECE_PAGES
        yield first, first * PIECE_PAGES, pages, what, piece["extent"], pfn
        return
    for run in piece["runs"]:
        yield first, run["page"], run["pages"], "small pages", run["extent"], run["pfn"]
