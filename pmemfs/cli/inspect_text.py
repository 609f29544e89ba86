"""The views of a whole image as text for people: usage, super, extents, free, journal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pmemfs.cli.table import facts, heading, line, table
from pmemfs.layout.record import Field, Record
from pmemfs.layout.records import CONTROL, SUPERBLOCK
from pmemfs.units import count, format_size

Data = dict[str, Any]


def render_state(data: Data) -> None:
    """Write what must be known of the image to believe a view, and the remarks."""
    if not data["clean"] and not data["live"]:
        line("")
        line(_unclean_sentence(data))
    if not data["consistent"]:
        line("")
        line("The image changed all the time it was read: these numbers may not fit together.")
    if data["remarks"]:
        heading("What cannot be true (see pmemfs fsck)")
        for remark in data["remarks"]:
            line(f"  {remark}")


def _unclean_sentence(data: Data) -> str:
    if data["journal_replayed"]:
        return (
            "Unclean and not mounted: the last mount did not close the image; the journal has "
            "nothing to replay."
        )
    return (
        "Unclean and not mounted: the journal is not replayed, so its last transaction may be "
        "missing here. The next mount replays it."
    )


def format_time(seconds: float | None) -> str | None:
    """Return a time in seconds since 1970 in UTC; the number where no calendar has it."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"


def format_ns(time_ns: int) -> str:
    """Return a time in ns since 1970 in UTC, to the nanosecond."""
    text = format_time(time_ns // 10**9) or ""
    return text.replace(" UTC", f".{time_ns % 10**9:09} UTC")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _bytes(number: int) -> str:
    return f"{format_size(number)} ({count(number, 'byte', 'bytes')})"


# -- usage -----------------------------------------------------------------------------------


def render_usage(data: Data) -> None:
    """Write the view ``usage``."""
    device = data["device_bytes"]
    inodes = count(data["inodes"], "inode", "inodes")
    heading(f"{data['image']}: usage" + (" (mounted)" if data["live"] else ""))
    facts(
        [
            ("device", _bytes(device)),
            ("on the host", _bytes(data["host_bytes"])),
            ("used", f"{_bytes(data['used_bytes'])}, {_share(data['used_bytes'], device)}"),
            ("free", f"{_bytes(data['free_bytes'])}, {_share(data['free_bytes'], device)}"),
            ("files", f"{data['files']} ({inodes} in use, with the root)"),
        ]
    )
    _render_extent_counts(data["extents"])
    _render_descriptors(data)


def _render_extent_counts(counts: dict[str, int]) -> None:
    heading("Extents of 2 MiB")
    names = ["total", "free", "returned", "whole", "small", "descriptor", "metadata"]
    labels = {"returned": "  of these returned"}
    table(
        ["kind", ">extents", ">share", ">size"],
        [
            (
                labels.get(name, name),
                counts[name],
                _share(counts[name], counts["total"]),
                format_size(counts[name] << 21),
            )
            for name in names
        ],
    )


def _render_descriptors(data: Data) -> None:
    heading("Descriptors")
    rows = [
        ("head descriptors", data["head_descriptors"], data["head_descriptor_bytes"]),
        ("split extents, their tables", data["split_extents"], data["page_descriptor_bytes"]),
        ("page descriptors touched", data["page_descriptors"], None),
        ("descriptor extents", data["descriptor_extents"], data["descriptor_extent_bytes"]),
        ("  of these the reserve", 1, data["reserve_bytes"]),
        ("owner pages, small extents", data["extents"]["small"], data["owner_page_bytes"]),
    ]
    table(
        ["what", ">number", ">size"],
        [(what, n, None if size is None else format_size(size)) for what, n, size in rows],
    )


# -- super -----------------------------------------------------------------------------------


def render_super(data: Data) -> None:
    """Write the view ``super``."""
    heading(f"{data['image']}: superblock")
    _render_record(SUPERBLOCK, data["superblock"])
    heading("Copies")
    table(
        [">offset", "magic", "checksum"],
        [
            (copy["offset"], _valid(copy["magic_valid"]), _valid(copy["checksum_valid"]))
            for copy in data["copies"]
        ],
    )
    heading("Control page")
    _render_record(CONTROL, data["control"])
    heading("Where things are")
    facts((name.replace("_", " "), value) for name, value in data["geometry"].items())


def _valid(is_valid: bool) -> str:
    return "right" if is_valid else "WRONG"


def _render_record(record: Record, values: Data) -> None:
    fields = [field for field in record.fields if field.name in values]
    table(
        ["field", "value", "meaning"],
        [(f.name, _field_text(f.name, values[f.name]), meaning(f)) for f in fields],
    )


def meaning(field: Field) -> str:
    """Return what FORMAT.md says of a field, without its markup."""
    return field.meaning.replace("**", "").replace("`", "")


def _field_text(name: str, value: Any) -> str:
    if name.endswith("_ns") and value:
        return format_ns(value)
    if name == "device_bytes":
        return _bytes(value)
    return hex(value) if name in ("magic", "checksum") else str(value)


# -- extents ---------------------------------------------------------------------------------


def render_extents(data: Data) -> None:
    """Write the view ``extents``."""
    table(
        [">extent", ">count", "kind", ">used", ">owner", ">index", "split", "last access", ">wear"],
        [_extent_row(row) for row in data["extents"]],
    )


def _extent_row(row: Data) -> tuple[Any, ...]:
    split = f"pfn {row['table_pfn']}" if row["split"] else None
    kind, owner = row["kind"], row["owner"]
    return (
        row["extent"],
        row["count"],
        kind,
        row["used"] if kind in ("small", "metadata", "inodes") else None,
        owner or None,
        row["index"] if kind in ("whole", "inodes") else None,
        split,
        format_time(row["access_s"]),
        row["wear"] or None,
    )


# -- free ------------------------------------------------------------------------------------


def render_free(data: Data) -> None:
    """Write the view ``free``."""
    free, device = data["free_bytes"], data["device_bytes"]
    aligned = data["aligned_bytes"]
    partly_used = count(data["partly_used_extents"], "extent", "extents")
    heading(f"{data['image']}: free space")
    facts(
        [
            ("free", f"{_bytes(free)}, {_share(free, device)} of the device"),
            ("in 2 MiB", f"{_bytes(aligned)}, {_share(aligned, free)} of the free space"),
            ("in pages", f"{_bytes(free - aligned)}, in {partly_used}"),
        ]
    )
    _render_runs("Runs of free extents", data["extent_runs"], free)
    _render_runs("Runs of free pages in small extents", data["page_runs"], free)


def _render_runs(title: str, runs: Data, free_bytes: int) -> None:
    heading(
        f"{title}: {runs['runs']}, largest {format_size(runs['largest_bytes'])}, "
        f"average {format_size(runs['average_bytes'])}"
    )
    table(
        [">from", ">below", ">runs", ">free", ">share"],
        [
            (
                format_size(bucket["min_bytes"]),
                format_size(bucket["below_bytes"]),
                bucket["runs"],
                format_size(bucket["free_bytes"]),
                _share(bucket["free_bytes"], free_bytes),
            )
            for bucket in runs["histogram"]
        ],
    )


# -- journal ---------------------------------------------------------------------------------


def render_journal(data: Data) -> None:
    """Write the view ``journal``."""
    heading(f"{data['image']}: journal")
    facts(
        [
            ("committed", f"transaction {data['committed']}"),
            ("replay", _replay_text(data)),
            ("slots", f"{len(data['slots'])} of {format_size(data['slot_bytes'])}"),
        ]
    )
    for slot in data["slots"]:
        _render_slot(slot)


def _replay_text(data: Data) -> str:
    if data["nothing_to_replay"]:
        return "nothing to replay"
    if data["live"]:
        return "not needed while the daemon lives: it stores the homes itself"
    return "needed: the next mount does it"


def _render_slot(slot: Data) -> None:
    number, header = slot["slot"], slot["header"]
    if slot["empty"]:
        heading(f"Slot {number}: never used")
        return
    payload = count(header["payload_bytes"], "byte", "bytes")
    which = ", the committed one" if slot["is_committed"] else ""
    heading(f"Slot {number}: transaction {header['sequence']}{which}")
    facts(
        [
            ("header checksum", _valid(slot["header_valid"])),
            ("payload", f"{payload}, {_valid(slot['payload_valid'])}"),
            ("entries", header["entries"]),
        ]
    )
    if slot["entries"]:
        table(
            ["kind", ">offset", ">bytes", "home"],
            [(e["kind"], hex(e["offset"]), e["length"], e["home"]) for e in slot["entries"]],
        )
