"""What `measure` found as tables: titles, columns and rows; who prints them is the command's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pmemfs.bench.descriptors.crossing import crossing_note
from pmemfs.bench.descriptors.measure import LARGEST_BYTES, SCHEMES, Document
from pmemfs.units import format_size

_MARK = "~"


class Section(NamedTuple):
    """A table with its title; a column whose name starts with ``>`` is set to the right."""

    title: str
    columns: list[str]
    rows: list[tuple[Any, ...]]


def sections(document: Document) -> list[Section]:
    """Return the tables in the order in which they are read."""
    found = [_bytes(document), _initialise_times(document), _initialise_stores(document)]
    if any(scheme["lookups"] for scheme in document.values()):
        found.append(_lookups(document))
    return [*found, _wear(document), _sweep(document)]


def notes(document: Document) -> list[str]:
    """Return sentences to set below the tables."""
    lines = []
    if any(row["extrapolated"] for row in _all_initial(document)):
        lines.append(f"{_MARK} not done, too large: time from the largest size that was")
    initial = next(iter(document.values()))["initialise"]
    if any(row["device_bytes"] >= LARGEST_BYTES for row in initial):
        lines.append(f"no device larger than {format_size(LARGEST_BYTES)} is tried")
    if "inverted" in document:
        lines.append(_inverted_note(document["inverted"]["bytes"]["peak"]))
        lines += _reserve_note(document["inverted"]["sweep"])
    if "memdesc-runs" in document:
        lines.append("memdesc: a folio for each small page; memdesc-runs: for each run of a file")
    return lines + _crossing_notes(document)


def _crossing_notes(document: Document) -> list[str]:
    sweep = document.get("inverted", {}).get("sweep")
    if not sweep:
        return []
    return [
        crossing_note(SCHEMES[name], sweep[0]["device_bytes"], scheme["run_pages"])
        for name, scheme in document.items()
        if name != "inverted"
    ]


def _inverted_note(space: Document) -> str:
    return (
        f"inverted at the peak: heads, owner pages and tables in use are "
        f"{format_size(space['in_use_bytes'])}, with the rest of their extents "
        f"{format_size(space['total_bytes'])}"
    )


def _reserve_note(sweep: list[Document]) -> list[str]:
    """Say how much of a small device the reserve is: it moves the shares from which others win."""
    if not sweep:
        return []
    reserve, size = sweep[0]["parts"]["reserve"], sweep[0]["device_bytes"]
    return [
        f"inverted keeps {format_size(reserve)} in reserve, {reserve / size:.3%} of the "
        f"{format_size(size)} on which shares of split extents are measured"
    ]


def _all_initial(document: Document) -> Iterable[Document]:
    return (row for scheme in document.values() for row in scheme["initialise"])


def _bytes(document: Document) -> Section:
    first = next(iter(document.values()))
    rows = []
    for name, scheme in document.items():
        fresh, peak, rest = (scheme["bytes"][key] for key in ("fresh", "peak", "rest"))
        rows.append(
            (
                name,
                format_size(fresh["total_bytes"]),
                format_size(peak["total_bytes"]),
                format_size(peak["host_bytes"]),
                _percent(peak["share_of_device"]),
                format_size(rest["total_bytes"]),
                format_size(rest["host_bytes"]),
                _percent(rest["share_of_device"]),
                _parts(rest["parts"]),
            )
        )
    return Section(
        f"Bytes of descriptors, {format_size(first['device_bytes'])} driven by {_origin(first)}",
        [
            "scheme",
            ">fresh",
            ">peak",
            ">on the host",
            ">of device",
            ">at rest",
            ">on the host",
            ">of device",
            "at rest these are",
        ],
        rows,
    )


def _origin(scheme: Document) -> str:
    origin = scheme["accesses_from"]
    return "made-up accesses" if origin == "synthetic" else origin


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {format_size(size)}" for name, size in parts.items() if size)


def _percent(share: float) -> str:
    return f"{share:.4%}"


def _initialise_times(document: Document) -> Section:
    first = next(iter(document.values()))
    columns = ["scheme", *(f">{format_size(row['device_bytes'])}" for row in first["initialise"])]
    rows = [
        (name, *(_mark(row) + _seconds(row["seconds"]) for row in scheme["initialise"]))
        for name, scheme in document.items()
    ]
    return Section("Initialise: CPU time", columns, rows)


def _initialise_stores(document: Document) -> Section:
    first = next(iter(document.values()))
    columns = ["scheme"]
    for row in first["initialise"]:
        columns += [f">{format_size(row['device_bytes'])}: stores", ">lines"]
    rows = [
        (name, *(cell for row in scheme["initialise"] for cell in _store_cells(row)))
        for name, scheme in document.items()
    ]
    return Section("Initialise: stores, and different lines of 64 bytes they touch", columns, rows)


def _store_cells(row: Document) -> tuple[str, str]:
    return f"{_mark(row)}{row['stores']:,}", f"{_mark(row)}{row['lines_touched']:,}"


def _mark(row: Document) -> str:
    return _MARK if row["extrapolated"] else ""


def _seconds(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.2f} ms"


def _lookups(document: Document) -> Section:
    """Return the table of lookups; its reads are what each scheme is made of, not measured."""
    rows = []
    for name, scheme in document.items():
        cells: list[str] = []
        for kind in ("whole", "split"):
            found = scheme["lookups"].get(kind)
            cells += (
                ["-", "-", "-"]
                if found is None
                else [
                    str(found["reads"]),
                    f"{found['one_by_one_per_s'] / 1e6:.2f}",
                    f"{found['batch_per_s'] / 1e6:.1f}",
                ]
            )
        rows.append((name, *cells))
    return Section(
        "Lookups: dependent reads by design; million per second one by one and in vectors",
        [
            "scheme",
            ">whole: reads",
            ">one by one",
            ">vectors",
            ">split: reads",
            ">one by one",
            ">vectors",
        ],
        rows,
    )


def _wear(document: Document) -> Section:
    rows = []
    for name, scheme in document.items():
        wear, accesses = scheme["wear"], scheme["accesses"]
        rows.append(
            (
                name,
                f"{accesses['stores']:,}",
                f"{wear['lines_stored']:,}",
                f"{wear['lines']:,}",
                f"{wear['hottest']:,}",
                wear["hottest_in"],
                f"{wear.get('hottest_1_percent_share', 0):.1%}",
            )
        )
    first = next(iter(document.values()))["accesses"]
    return Section(
        f"Wear by {first['records']:,} accesses to {first['pages']:,} pages",
        [
            "scheme",
            ">stores",
            ">lines stored",
            ">different lines",
            ">hottest line",
            "lies in",
            ">hottest 1 % takes",
        ],
        rows,
    )


def _sweep(document: Document) -> Section:
    first = next(iter(document.values()))["sweep"]
    size = format_size(first[0]["device_bytes"]) if first else ""
    return Section(
        f"Descriptors as a share of the device, by the share of extents that are split ({size})",
        ["scheme", *(f">{row['split_share']:.0%}" for row in first)],
        [
            (name, *(f"{row['share_of_device']:.3%}" for row in scheme["sweep"]))
            for name, scheme in document.items()
        ],
    )
