"""The descriptor schemes: known figures, real stores, one rule of stamping, what is measured."""

from __future__ import annotations

import errno
import itertools
import json
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import pmemfs
from pmemfs.bench.descriptors.accesses import (
    Accesses,
    extents_in_use,
    recorded,
    summary,
    synthetic,
    usable_extents,
)
from pmemfs.bench.descriptors.compound import Memdesc, MemdescRuns, VmemmapDedup
from pmemfs.bench.descriptors.crossing import LARGE_BYTES, crossing, crossing_note
from pmemfs.bench.descriptors.device import (
    LineRanges,
    TallyDevice,
    open_scratch,
    scratch_directory,
    scratch_file,
)
from pmemfs.bench.descriptors.inverted import IDLE_S, Inverted
from pmemfs.bench.descriptors.linear import Flat, Hierarchical, Scattered
from pmemfs.bench.descriptors.measure import (
    LARGEST_BYTES,
    SCHEMES,
    Plan,
    measure,
    touch_all,
)
from pmemfs.bench.descriptors.plots import make_folder, write_plots
from pmemfs.bench.descriptors.report import notes, sections
from pmemfs.bench.descriptors.scheme import DIRTY, FREED, WHOLE, WRITE, Scheme
from pmemfs.bench.picture import load_matplotlib
from pmemfs.cli import main
from pmemfs.errors import PmemfsError
from pmemfs.pages.trace import TRACE_RECORD, read_trace, write_header
from pmemfs.units import GIB, KIB, MIB, TIB

SIZE = 256 * MIB
PAGES = SIZE // 4096
SMALL, LARGE = 5, 9


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder where the program would make its files."""
    with tempfile.TemporaryDirectory(dir=scratch_directory()) as folder:
        yield Path(folder)


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scheme]:
    with scratch_file(tmp_path) as path:
        scheme = SCHEMES[request.param](path, SIZE)
        scheme.initialise()
        scheme.prepare(np.array([SMALL, SMALL + 1]), np.array([LARGE]))
        scheme.pass_time(1)
        yield scheme
        scheme.close()


def make(cls: type[Scheme], path: Path, size_bytes: int = SIZE) -> Scheme:
    path.touch()
    scheme = cls(path, size_bytes)
    scheme.initialise()
    scheme.pass_time(1)
    return scheme


def found(scheme: Scheme, pfn: int) -> int:
    """Where the descriptor of a page of the accesses is, as a word of the device."""
    return scheme.find(int(scheme.translate(np.array([pfn]))[0])) >> 3


def state(scheme: Scheme, pfn: int) -> int:
    return scheme.device.words[found(scheme, pfn) + 1]


# -- known figures ---------------------------------------------------------------------------


def test_known_figures_by_arithmetic() -> None:
    assert Flat.initial_bytes(TIB) / TIB == 0.015625
    assert Scattered.initial_bytes(TIB) / TIB == pytest.approx(1 / 65, rel=1e-6)
    assert VmemmapDedup.initial_bytes(TIB) == 4 * GIB + 32 * MIB  # and the page tables
    assert Memdesc.initial_bytes(TIB) == 2 * GIB
    assert Hierarchical.initial_bytes(TIB) == 64
    assert Hierarchical.initial_bytes(3 * GIB) == 2 * 64


@pytest.mark.parametrize(
    ("cls", "share"),
    [(Flat, 1 / 64), (Scattered, 1 / 65), (VmemmapDedup, 1 / 256 + 2**-15), (Memdesc, 1 / 512)],
)
def test_what_is_there_always_is_on_the_host(
    cls: type[Scheme], share: float, tmp_path: Path
) -> None:
    scheme = make(cls, tmp_path / "device")
    total = sum(scheme.parts().values())
    assert total / SIZE == pytest.approx(share, rel=1e-3)
    assert scheme.device.host_bytes == total
    assert scheme.device.counters.bytes_stored == total == cls.initial_bytes(SIZE)
    scheme.close()


def test_inverted_takes_32_mib_for_a_tib_and_32_kib_for_a_split(tmp_path: Path) -> None:
    scheme = make(Inverted, tmp_path / "device", TIB)
    assert scheme.in_use_bytes() == 32 * MIB
    assert scheme.device.host_bytes < 64 * KIB
    small = np.arange(3)
    scheme.prepare(small, np.array([], np.int64))
    before = scheme.device.host_bytes
    touch_all(scheme, small, np.array([], np.int64))
    assert scheme.in_use_bytes() == 32 * MIB + 3 * 32 * KIB + 3 * 4 * KIB  # and the owner pages
    assert scheme.device.host_bytes - before == 3 * 32 * KIB
    scheme.close()


def test_inverted_counts_the_extents_that_tables_keep_others_out_of(tmp_path: Path) -> None:
    scheme = make(Inverted, tmp_path / "device")
    heads = SIZE // 2**21 * 64
    assert scheme.parts() == {
        "heads": heads,
        "reserve": 2 * MIB,
        "descriptor extents": 0,
        "owner pages": 0,
    }
    small = np.arange(65)  # one more than the reserve has room for
    scheme.prepare(small, np.array([], np.int64))
    touch_all(scheme, small, np.array([], np.int64))
    assert scheme.parts()["descriptor extents"] == 2 * MIB
    assert scheme.in_use_bytes() == heads + 65 * 36 * KIB
    assert scheme.device.host_bytes < sum(scheme.parts().values()) + 64 * KIB
    scheme.pass_time(2 + 3 * int(IDLE_S))
    assert scheme.parts()["descriptor extents"] == 0
    scheme.close()


def test_dedup_split_has_all_its_descriptors_again(tmp_path: Path) -> None:
    scheme = make(VmemmapDedup, tmp_path / "device")
    before = scheme.parts()["descriptors"]
    scheme.touch(SMALL * 512, 1, 0, 0)
    assert scheme.parts()["descriptors"] - before == 6 * 4096
    scheme.touch(SMALL * 512, 512, FREED, 0)
    assert scheme.parts()["descriptors"] == before
    assert scheme.find(SMALL * 512 + 400) == scheme.find(SMALL * 512)
    scheme.close()


def test_memdesc_descriptors_live_until_freed(tmp_path: Path) -> None:
    scheme = make(Memdesc, tmp_path / "device")
    assert isinstance(scheme, Memdesc)
    scheme.touch(SMALL * 512 + 1, 100, 0, 0)
    scheme.touch(LARGE * 512 + 1, 100, WHOLE, 0)
    assert scheme.folios == 101
    assert scheme.parts()["descriptors"] == 2 * 4096
    scheme.pass_time(1000)
    assert scheme.folios == 101
    scheme.touch(SMALL * 512, 512, FREED, 0)
    scheme.touch(LARGE * 512, 512, FREED, 0)
    assert scheme.folios == 0
    assert scheme.find(LARGE * 512 + 1) == (LARGE * 512 + 1) * 8
    scheme.close()


def test_memdesc_folios_of_neighbours(tmp_path: Path) -> None:
    scheme = make(MemdescRuns, tmp_path / "device")
    assert isinstance(scheme, MemdescRuns)
    scheme.touch(SMALL * 512, 512, 0, 0)
    assert scheme.folios == 160  # 512 / 3.2
    folios = [scheme.find(SMALL * 512 + slot) for slot in range(512)]
    lengths = [folios.count(folio) for folio in dict.fromkeys(folios)]
    assert lengths == [4, 3, 3, 3, 3] * 32
    before = scheme.device.counters.copy()
    scheme.touch(SMALL * 512 + 1, 7, WRITE, 64)
    assert scheme.device.counters.since(before).stores == 3
    wear = [scheme.device.words[scheme.find(SMALL * 512 + slot) // 8 + 2] for slot in (1, 4, 7)]
    assert wear == [3 * 64, 3 * 64, 64]
    scheme.touch(SMALL * 512, 2, FREED, 0)
    assert scheme.folios == 160  # two pages are still there
    scheme.touch(SMALL * 512 + 1, 1, 0, 0)
    assert scheme.folios == 161
    scheme.touch(SMALL * 512, 512, FREED, 0)
    assert scheme.folios == 0
    scheme.close()


@pytest.mark.parametrize("cls", [Flat, Scattered, Hierarchical])
def test_a_whole_extent_is_a_compound_page(cls: type[Scheme], tmp_path: Path) -> None:
    scheme = make(cls, tmp_path / "device")
    pfn = LARGE * 512
    scheme.touch(pfn, 1, WHOLE, 0)
    first = pfn + 65 - pfn % 65  # of the first run of 64 that begins in the extent
    head = first if cls is Scattered else pfn
    scheme.device.start_tally()
    scheme.touch(first + 5, 32, WRITE | WHOLE, 32 * 64)
    assert scheme.device.tally()[1].tolist() == [1]  # one line, not 32
    assert scheme.find(first + 5) == scheme.find(first + 36) == scheme.find(head)
    assert scheme.device.words[(scheme.find(head) >> 3) + 2] == 32 * 64
    scheme.touch(pfn + 1, 1, 0, 0)  # now it is used by 4 KiB
    assert scheme.find(first + 5) != scheme.find(head)
    scheme.touch(pfn, 1, WHOLE, 0)
    assert scheme.find(first + 5) == scheme.find(head)
    scheme.touch(pfn, 512, FREED, 0)
    assert scheme.find(first + 5) != scheme.find(head)
    scheme.close()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_a_scheme_stores_at_most_is_known_before(scheme: Scheme, share: float) -> None:
    small, whole = extents_in_use(SIZE, share)
    scheme.prepare(small, whole)
    touch_all(scheme, small, whole)
    most = scheme.initial_bytes(SIZE) + len(small) * scheme.grows_by[0]
    most += len(whole) * scheme.grows_by[1]
    heads = SIZE // 2**21 * 64  # mkfs leaves those of free extents for later
    assert scheme.in_use_bytes() <= most + heads + 4 * KIB


def test_hierarchical_initialises_what_is_touched(tmp_path: Path) -> None:
    scheme = make(Hierarchical, tmp_path / "device")
    assert scheme.device.counters.bytes_stored == 64
    assert scheme.find(SMALL * 512 + 7) == 0  # one group covers all
    scheme.touch(SMALL * 512 + 7, 1, 0, 0)
    assert scheme.parts() == {"descriptors": 32 * KIB}
    assert scheme.find(SMALL * 512 + 8) == (SMALL * 512 + 8) * 64
    assert scheme.find(0) == 0  # the lower half of what is left: the group of 2 GiB and less
    assert scheme.find(PAGES - 1) == PAGES // 2 * 64
    scheme.close()


# -- every scheme ----------------------------------------------------------------------------


def test_an_access_is_stamped_where_it_is_found(scheme: Scheme) -> None:
    pages = {SMALL * 512 + 1: 1, SMALL * 512 + 200: 7, SMALL * 512 + 500: 12}
    for pfn, count in pages.items():
        scheme.touch(pfn, count, WRITE | DIRTY, 0)
    scheme.touch(LARGE * 512 + 3, 1, WHOLE, 0)
    for pfn, count in pages.items():
        for each in range(pfn, pfn + count):
            assert state(scheme, each) == 1 << 8 | DIRTY, each
    stamp = 6 if scheme.name == "inverted" else 1  # the head has it in another word
    seconds = scheme.device.words[found(scheme, LARGE * 512 + 3) + stamp]
    assert seconds == 1 if scheme.name == "inverted" else seconds == 1 << 8


def test_a_second_is_stamped_once(scheme: Scheme) -> None:
    pfn = SMALL * 512 + 10
    scheme.touch(pfn, 1, 0, 0)
    before = scheme.device.counters.copy()
    for _ in range(5):
        scheme.touch(pfn, 1, 0, 0)
    assert scheme.device.counters.since(before).stores == 0
    scheme.pass_time(2)
    scheme.touch(pfn, 1, 0, 0)
    assert state(scheme, pfn) == 2 << 8 | 2  # and it is referenced now
    assert scheme.device.counters.since(before).stores == (2 if scheme.name == "inverted" else 1)


def test_wear_adds_up(scheme: Scheme) -> None:
    pfn = SMALL * 512 + 10
    for _ in range(3):
        scheme.touch(pfn, 2, WRITE, 64)
    shared = 2 if found(scheme, pfn) == found(scheme, pfn + 1) else 1
    assert shared == (2 if scheme.name == "memdesc-runs" else 1)
    for each in (pfn, pfn + 1):
        assert scheme.device.words[found(scheme, each) + 2] == 3 * 64 * shared


def test_pages_of_a_split_extent_have_a_descriptor_each(scheme: Scheme) -> None:
    touch_all(scheme, np.array([SMALL, SMALL + 1]), np.array([LARGE]))
    pages = np.arange(SMALL * 512 + 1, SMALL * 512 + 512)
    if scheme.name == "scattered":
        pages = pages[pages % 65 != 64]  # those are descriptor pages themselves
    n = 160 if scheme.name == "memdesc-runs" else len(pages)
    assert len({found(scheme, pfn) for pfn in pages.tolist()}) == n


def test_vectors_find_the_same(scheme: Scheme) -> None:
    touch_all(scheme, np.array([SMALL]), np.array([LARGE]))
    extents = (0, SMALL, SMALL + 1, LARGE)
    pfns = np.concatenate([np.arange(e * 512 + 1, e * 512 + 512) for e in extents])
    pfns = scheme.translate(pfns)
    assert scheme.find_many(pfns).tolist() == [scheme.find(pfn) for pfn in pfns.tolist()]


def test_only_inverted_gives_descriptors_back(scheme: Scheme) -> None:
    touch_all(scheme, np.array([SMALL, SMALL + 1]), np.array([LARGE]))
    active = scheme.in_use_bytes()
    scheme.pass_time(2 + 3 * int(IDLE_S))
    idle = scheme.in_use_bytes()
    assert active - idle == (2 * 32 * KIB if scheme.name == "inverted" else 0)


def test_inverted_is_the_engine(tmp_path: Path) -> None:
    scheme = make(Inverted, tmp_path / "device")
    assert isinstance(scheme, Inverted)
    scheme.touch(SMALL * 512 + 1, 1, 0, 0)
    scheme.touch(LARGE * 512 + 1, 1, WHOLE, 0)
    assert scheme.volume.tables is scheme.tables
    assert (scheme.tables.splits, scheme.tables.split_extents) == (1, 1)
    scheme.touch(SMALL * 512, 512, FREED, 0)
    assert scheme.tables.split_extents == 0
    scheme.touch(SMALL * 512 + 1, 1, WHOLE, 0)  # another file has it now, whole
    assert scheme.tables.split_extents == 0
    scheme.volume.close()  # a volume like any other: it can be left clean
    scheme.volume.abandon()


# -- the tally -------------------------------------------------------------------------------


def test_tally_counts_every_line(tmp_path: Path) -> None:
    (tmp_path / "device").touch()
    device = open_scratch(tmp_path / "device", MIB)
    device.store(0, bytes(64))
    device.start_tally()
    device.store(60, bytes(8))  # two lines
    device.store(64, bytes(256))
    device.store(4096, b"x")
    lines, counts = device.tally()
    assert dict(zip(lines.tolist(), counts.tolist())) == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 64: 1}
    device.store(4100, b"x")
    assert dict(zip(*(column.tolist() for column in device.tally())))[64] == 2
    device.close()


def test_ranges_count_lines_once(tmp_path: Path) -> None:
    (tmp_path / "device").touch()
    device = open_scratch(tmp_path / "device", MIB)
    device.ranges = LineRanges()
    for offset, length in ((640, 64), (0, 256), (60, 8), (128, 1), (1024, 640), (192, 128)):
        device.store(offset, bytes(length))
    touched = {*range(5), 10, *range(16, 26)}
    assert (device.ranges.stored, device.ranges.touched) == (1 + 4 + 2 + 1 + 10 + 2, len(touched))
    device.close()


def test_refused_file(tmp_path: Path) -> None:
    (tmp_path / "device").touch()
    with pytest.raises(PmemfsError, match="the host refuses a file of"):
        open_scratch(tmp_path / "device", 1 << 62)


# -- accesses --------------------------------------------------------------------------------


def test_made_up_accesses_are_the_same_for_the_same_seed() -> None:
    one, same, other = (synthetic(SIZE, 0.25, 50, 20, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.records, same.records)
    assert not np.array_equal(one.records, other.records)
    assert len(one.records) == 1000
    pfn = one.records["page"] >> np.uint64(8)
    assert ((pfn & np.uint64(511)) + one.records["count"] <= 512).all()
    whole = one.records["page"] & np.uint64(WHOLE) != 0
    assert set((pfn[whole] >> np.uint64(9)).tolist()) <= set(one.whole.tolist())
    assert set((pfn[~whole] >> np.uint64(9)).tolist()) <= set(one.small.tolist())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_extents_in_use_fit_the_engine(share: float, tmp_path: Path) -> None:
    small, whole = extents_in_use(SIZE, share)
    assert len(small) == round(share * (len(small) + len(whole)))
    scheme = make(Inverted, tmp_path / "device")
    assert isinstance(scheme, Inverted)
    scheme.prepare(small, whole)
    touch_all(scheme, small, whole)
    assert scheme.tables.split_extents == len(small)
    assert scheme.tables.stolen == 0
    scheme.close()


# -- measuring -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document() -> dict:
    return measure(plan(scratch_directory()))


def plan(directory: Path) -> Plan:
    return Plan(
        synthetic(SIZE, 0.25, 80, 50, 1),
        directory,
        initial_sizes=(SIZE, GIB),
        with_largest=False,
        most_bytes=8 * MIB,
        sweep_bytes=SIZE,
        shares=(0.0, 0.5, 1.0),
        lookups=100,
        batch=1000,
    )


def test_a_key_for_each_scheme(document: dict) -> None:
    assert list(document) == list(SCHEMES)
    assert len({scheme["accesses"]["pages"] for scheme in document.values()}) == 1


def test_what_is_too_large_is_extrapolated_and_marked(document: dict) -> None:
    flat = document["flat"]["initialise"]
    assert [row["extrapolated"] for row in flat] == [False, True]
    assert flat[1]["bytes_stored"] == GIB // 64
    assert flat[1]["seconds"] == pytest.approx(4 * flat[0]["seconds"])
    assert (flat[0]["stores"], flat[1]["stores"]) == (2, 8)  # of 2 MiB
    assert not any(row["extrapolated"] for row in document["inverted"]["initialise"])
    assert "~ not done" in notes(document)[0]


def test_bytes_at_peak_and_at_rest(document: dict) -> None:
    for name, scheme in document.items():
        peak, rest = scheme["bytes"]["peak"], scheme["bytes"]["rest"]
        assert peak["total_bytes"] == sum(peak["parts"].values())
        assert rest["total_bytes"] <= peak["total_bytes"], name
    n_small = len(extents_in_use(SIZE, 0.25)[0])
    inverted = document["inverted"]["bytes"]
    heads = SIZE // 2**21 * 64
    assert inverted["peak"]["in_use_bytes"] == heads + n_small * 36 * KIB
    assert inverted["rest"]["parts"] == {
        "heads": heads,
        "reserve": 2 * MIB,
        "descriptor extents": 0,
        "owner pages": n_small * 4096,
    }
    assert inverted["rest"]["in_use_bytes"] == heads + n_small * 4096
    assert inverted["rest"]["host_bytes"] <= inverted["rest"]["total_bytes"] + 64 * KIB


def test_wear_is_of_all_lines_stored(document: dict) -> None:
    for scheme in document.values():
        wear = scheme["wear"]
        assert wear["lines_stored"] == sum(p["lines_stored"] for p in wear["by_part"].values())
        assert wear["hottest"] == max(p["hottest"] for p in wear["by_part"].values())
        assert wear["curve"][0] == (1, wear["hottest"])
        assert wear["curve"][-1][0] == wear["lines"]
        assert 0.01 <= wear["hottest_1_percent_share"] <= 1


def test_the_sweep_is_what_arithmetic_says(document: dict) -> None:
    for name, scheme in document.items():
        for row in scheme["sweep"]:
            small, whole = map(len, extents_in_use(SIZE, row["split_share"]))
            counts = np.array([small]), np.array([whole])
            assert SCHEMES[name].swept_bytes(SIZE, *counts, 3.2) == [row["total_bytes"]], name
    sweep = {name: [row["total_bytes"] for row in document[name]["sweep"]] for name in document}
    assert sweep["inverted"][0] == SIZE // 2**21 * 64 + 2 * MIB
    assert sweep["flat"] == [SIZE // 64] * 3
    n_small = len(extents_in_use(SIZE, 1.0)[0])
    tables = -(-n_small // 64) * 2 * MIB
    assert sweep["inverted"][2] == SIZE // 2**21 * 64 + tables + n_small * 4096


@pytest.mark.parametrize("pages", [1.0, 2.0, 3.2, 7.5])
def test_arithmetic_knows_how_runs_are_cut(tmp_path: Path, pages: float) -> None:
    (tmp_path / "device").touch()
    scheme = MemdescRuns(tmp_path / "device", SIZE)
    scheme.run_pages = pages
    scheme.initialise()
    touch_all(scheme, np.arange(7), np.arange(7, 20))
    (arithmetic,) = MemdescRuns.swept_bytes(SIZE, np.array([7]), np.array([13]), pages)
    assert sum(scheme.parts().values()) == arithmetic
    scheme.close()


@pytest.mark.parametrize(
    ("rival", "share"),
    [
        # in KiB for each 2 MiB, of which files use 64 in 65
        (Flat, (32 - 1 / 16) / 36 * 65 / 64),
        (VmemmapDedup, 8 / (36 - 24) * 65 / 64),
    ],
)
def test_where_inverted_stops_winning_on_a_large_device(rival: type[Scheme], share: float) -> None:
    found = crossing(rival, LARGE_BYTES, 3.2)
    assert found == (pytest.approx(share, abs=0.001), pytest.approx(share, abs=0.001))


def test_where_the_steps_of_a_small_device_put_the_crossing() -> None:
    size = 2 * GIB
    wins_to, loses_from = crossing(VmemmapDedup, size, 3.2)
    assert wins_to is not None
    assert loses_from is not None
    n = usable_extents(size)

    def gap(share: float) -> int:
        small = np.array([round(share * n)])
        ours, theirs = (
            scheme.swept_bytes(size, small, n - small, 3.2) for scheme in (Inverted, VmemmapDedup)
        )
        return int(ours[0] - theirs[0])

    assert gap(wins_to) <= 0 < gap(wins_to + 1 / n)
    assert gap(loses_from - 1 / n) <= 0 < gap(loses_from)


def test_what_is_said_of_a_crossing_does_not_depend_on_the_shares_measured(document: dict) -> None:
    few = {
        name: scheme | {"sweep": [scheme["sweep"][0], scheme["sweep"][-1]]}
        for name, scheme in document.items()
    }
    said = [line for line in notes(document) if line.startswith("inverted takes")]
    assert said == [line for line in notes(few) if line.startswith("inverted takes")]
    assert len(said) == len(SCHEMES) - 1
    assert said[0].startswith("inverted takes more than flat above 90.1% split on 1 TiB, above ")


class Cheap(Flat):
    """A rival that takes less than inverted, whatever is split."""

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        return 1


def test_a_rival_that_always_or_never_takes_less() -> None:
    assert crossing(Memdesc, LARGE_BYTES, 3.2) == (1.0, None)
    assert crossing_note(Memdesc, LARGE_BYTES, 3.2) == (
        "inverted takes no more than memdesc at any share of split extents"
    )
    assert crossing(Cheap, LARGE_BYTES, 3.2) == (None, 0.0)
    assert crossing_note(Cheap, LARGE_BYTES, 3.2) == (
        "inverted takes more than flat at any share of split extents"
    )


def test_with_runs_memdesc_takes_a_third_of_what_it_takes_without(tmp_path: Path) -> None:
    one, all_split = np.array([], np.int64), np.arange(120)
    shares = {}
    for cls, pages in ((Memdesc, 3.2), (MemdescRuns, 3.2), (MemdescRuns, 8.0)):
        path = tmp_path / "device"
        path.touch()
        scheme = cls(path, SIZE)
        scheme.run_pages = pages
        scheme.initialise()
        touch_all(scheme, all_split, one)
        shares[cls.name, pages] = sum(scheme.parts().values()) / (120 * 2 * MIB)
        scheme.close()
    words = 8 / 4096 * 128 / 120
    assert shares["memdesc", 3.2] == pytest.approx(words + 80 / 4096, rel=0.01)
    assert shares["memdesc-runs", 3.2] == pytest.approx(words + 80 / 3.2 / 4096, rel=0.01)
    assert shares["memdesc-runs", 8.0] == pytest.approx(words + 80 / 8 / 4096, rel=0.01)


def test_initialise_counts_stores_and_lines(document: dict) -> None:
    for scheme in document.values():
        for row in scheme["initialise"]:
            assert 0 < row["stores"] <= row["lines_stored"]
            assert 0 < row["lines_touched"] <= row["lines_stored"]
    first = {name: scheme["initialise"][0] for name, scheme in document.items()}
    assert first["flat"]["lines_touched"] == PAGES
    assert first["scattered"]["stores"] == -(-PAGES // 65)
    assert first["vmemmap-dedup"]["stores"] == 2  # descriptors, page tables
    inverted = first["inverted"]  # the commit word, for one, is stored more than once
    assert inverted["lines_touched"] < inverted["lines_stored"]
    assert inverted["lines_stored"] != -(-inverted["bytes_stored"] // 64)


def test_lookups_are_on_as_many_extents(document: dict) -> None:
    small, whole = extents_in_use(SIZE, 0.25)
    for scheme in document.values():
        for kind in ("whole", "split"):
            assert scheme["lookups"][kind]["extents"] == min(len(small), len(whole))


def test_verdicts(document: dict) -> None:
    text = "\n".join(notes(document))
    assert "whatever is split" not in text
    assert "on 1 TiB, at any share of split extents on 256 MiB" in text  # on so small a device
    assert "keeps 2 MiB in reserve, 0.781% of the 256 MiB" in text
    assert "above 0.0% split" not in text
    assert "with the rest of their extents" in text
    assert "no device larger" not in text
    largest = {"flat": document["flat"] | {"initialise": [row_of(document, LARGEST_BYTES)]}}
    assert "no device larger than 16 TiB is tried" in notes(largest)


def row_of(document: dict, size_bytes: int) -> dict:
    return document["flat"]["initialise"][0] | {"device_bytes": size_bytes}


@pytest.mark.parametrize("name", ["flat", "hierarchical"])
def test_a_device_too_large_is_refused_before_anything_is_stored(name: str, tmp_path: Path) -> None:
    heard: list[str] = []
    little = replace(plan(tmp_path), schemes=("inverted", name), most_bytes=3 * MIB)
    with pytest.raises(PmemfsError, match=f"{name} stores .* give a smaller --size") as caught:
        measure(little, heard.append)
    assert caught.value.errno == errno.ENOSPC
    assert heard == []
    assert not list(tmp_path.iterdir())


def test_tables_have_a_row_for_each_scheme(document: dict) -> None:
    for section in sections(document):
        assert [row[0] for row in section.rows] == list(SCHEMES)
        assert {len(row) for row in section.rows} == {len(section.columns)}


def test_without_split_extents_there_is_nothing_to_look_up(tmp_path: Path) -> None:
    none = replace(plan(tmp_path), accesses=synthetic(SIZE, 0, 2, 10, 1), schemes=("inverted",))
    lookups = measure(none)["inverted"]["lookups"]
    assert list(lookups) == ["whole"]


def test_scratch_files_are_removed(tmp_path: Path) -> None:
    accesses: Accesses = synthetic(SIZE, 0.1, 1, 5, 1)
    measure(replace(plan(tmp_path), accesses=accesses, schemes=("flat",), shares=()))
    assert not list(tmp_path.iterdir())


def test_tally_device_is_a_mapped_device_that_backs_nothing(tmp_path: Path) -> None:
    (tmp_path / "device").touch()
    device: TallyDevice = open_scratch(tmp_path / "device", 8 * MIB)
    device.back(0, 8 * MIB)
    assert device.host_bytes == 0
    device.back_bulk(4096, 100)
    assert device.host_bytes == 4096
    device.close()


# -- recorded accesses -----------------------------------------------------------------------


def write_trace(path: Path, n_extents: int, *records: tuple[int, int, int, int, int]) -> Path:
    """Write records of ``(second, pfn, count, flags, lines)``."""
    body = b"".join(
        TRACE_RECORD.pack(page=pfn << 8 | flags, second=second, count=count, lines=lines)
        for second, pfn, count, flags, lines in records
    )
    path.write_bytes(write_header(n_extents) + body)
    return path


def test_every_scheme_replays_a_trace(tmp_path: Path) -> None:
    start = 1_800_000_000
    trace = write_trace(
        tmp_path / "t.trace",
        128,
        (start, 20 * 512 + 1, 5, WRITE | DIRTY, 0),
        (start, 21 * 512 + 1, 1, 0, 0),
        (start + 1, 30 * 512 + 8, 100, WHOLE | WRITE, 6400),
        (start + 2, 20 * 512 + 1, 5, FREED, 0),
        (start + 2, 21 * 512, 512, FREED, 0),
        (start + 60, 22 * 512 + 3, 1, 0, 0),
    )
    accesses = recorded(trace)
    assert accesses.size_bytes == SIZE
    document = measure(replace(plan(tmp_path), accesses=accesses, shares=()))
    assert {scheme["accesses"]["records"] for scheme in document.values()} == {6}
    inverted = document["inverted"]["bytes"]
    heads = SIZE // 2**21 * 64
    assert inverted["peak"]["in_use_bytes"] == heads + 2 * 36 * KIB
    assert inverted["rest"]["in_use_bytes"] == heads + 2 * 4096
    assert inverted["rest"]["parts"]["owner pages"] == 2 * 4096
    for scheme in document.values():
        assert list(scheme["lookups"]) == ["whole", "split"]
        assert scheme["wear"]["lines_stored"] > 0


def test_of_equal_peaks_the_fullest_counts(tmp_path: Path) -> None:
    trace = write_trace(
        tmp_path / "t.trace",
        128,
        (1000, 20 * 512 + 1, 1, 0, 0),
        (1100, 21 * 512 + 1, 1, 0, 0),  # the first is idle by now
        (1101, 20 * 512 + 1, 1, 0, 0),
        (1102, 20 * 512 + 1, 1, 0, 0),
    )
    ours = replace(plan(tmp_path), accesses=recorded(trace), schemes=("inverted",), shares=())
    peak = measure(ours)["inverted"]["bytes"]["peak"]
    assert peak["in_use_bytes"] == SIZE // 2**21 * 64 + 2 * 36 * KIB


def test_summary_of_a_trace(tmp_path: Path) -> None:
    trace = write_trace(
        tmp_path / "t.trace",
        128,
        (10, 5 * 512 + 1, 5, WRITE | DIRTY, 0),
        (12, 5 * 512 + 1, 2, 0, 0),
        (12, 7 * 512, 100, WHOLE, 0),
        (13, 5 * 512, 512, FREED, 0),
    )
    header, records = read_trace(trace)
    data = summary(header["n_extents"], header["dropped"], records)
    assert (data["records"], data["seconds"], data["first_second"]) == (4, 4, 10)
    assert data["reads"] == {"records": 2, "pages": 102}
    assert data["writes"] == {"records": 1, "pages": 5}
    assert data["frees"] == {"records": 1, "pages": 512}
    assert data["small"] == {"records": 2, "pages": 7, "extents": 1}
    assert data["whole"] == {"records": 1, "pages": 100, "extents": 1}
    assert data["hottest"][0] == {"extent": 5, "records": 2, "pages": 7}


# -- the command -----------------------------------------------------------------------------


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", "descriptors", *map(str, arguments)])


def test_json_is_an_object_with_a_key_for_each_scheme(tmp_path: Path) -> None:
    result = command("--quick", "--size", "256M", "--seconds", "2", "--json", "--dir", tmp_path)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert list(data) == list(SCHEMES)
    assert data["flat"]["environment"]["cpus"] > 0
    assert data["flat"]["bytes"]["rest"]["share_of_device"] == 0.015625


@pytest.mark.filterwarnings("default")  # matplotlib's own
def test_tables_and_pictures(tmp_path: Path) -> None:
    words = ("--quick", "--size", "256M", "--seconds", "2", "--only", "inverted,flat")
    result = command(*words, "--plots", tmp_path / "p", "--dir", tmp_path)
    assert result.exit_code == 0, result.output
    for title in ("Bytes of descriptors", "Initialise", "Lookups", "Wear by", "as a share of"):
        assert title in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines() if "split tables" in line]
    pictures = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert pictures == ["bytes.png", "initialise.png", "wear.png"]


@pytest.mark.filterwarnings("default")  # matplotlib's own
def test_labels_of_sizes_do_not_reach_into_each_other(
    document: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also with sizes as close as --size makes them; the last is what a host allows."""
    sizes = [GIB, GIB * 5 // 4, 16 * GIB, 17 * GIB, 24 * GIB, 16 * TIB - 2 * MIB, 16 * TIB]
    rows = [document["flat"]["initialise"][0] | {"device_bytes": size} for size in sizes]
    pyplot = load_matplotlib()
    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    make_folder(tmp_path)
    write_plots({"flat": document["flat"] | {"initialise": rows}}, tmp_path)
    monkeypatch.undo()
    (axes,) = pyplot.figure(pyplot.get_fignums()[1]).axes
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert [label.get_text() for label in labels] == ["1 GiB", "16 GiB", "16.00 TiB"]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    pyplot.close("all")


def test_plots_in_a_file_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "q" / "wear.png").mkdir(parents=True)
    wrong = ((tmp_path / "file", 2), (tmp_path / "file" / "p", 1), (tmp_path / "q", 1))
    for folder, code in wrong:
        result = command("--quick", "--only", "flat", "--plots", folder)
        assert (result.exit_code, result.stdout) == (code, "")
        assert "flat: initialise" not in result.stderr
        assert "irectory" in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.filterwarnings("default")  # matplotlib's own
def test_tables_are_printed_though_pictures_fail(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "bytes.png").symlink_to("/dev/full")
    words = ("--quick", "--size", "256M", "--seconds", "2", "--only", "flat", "--dir", tmp_path)
    result = command(*words, "--plots", tmp_path / "p")
    assert result.exit_code == 1
    assert "Bytes of descriptors" in result.stdout
    assert "bytes.png" in result.stderr


def test_quick_leaves_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Plan] = []

    def caught(plan: Plan, report: object) -> dict:
        seen.append(plan)
        raise PmemfsError(errno.ECANCELED, "enough")

    monkeypatch.setattr("pmemfs.cli.bench.measure", caught)
    command("--quick", "--dir", tmp_path)
    words = ("--size", "2G", "--seconds", "90", "--rate", "300", "--most", "1G", "--budget", "7")
    command("--quick", *words, "--run", "4", "--dir", tmp_path)
    short, given = seen
    assert short.sweep_bytes == 2 * GIB  # the reserve of inverted is 1 % of smaller ones
    assert (short.accesses.size_bytes, short.most_bytes) == (GIB, 256 * MIB)
    assert len(short.accesses.records) == 80 * 200
    assert (given.accesses.size_bytes, given.most_bytes) == (2 * GIB, GIB)
    assert len(given.accesses.records) == 90 * 300
    assert (given.budget_s, given.run_pages) == (7, 4)


def test_documents_are_in_the_package() -> None:
    root = Path(pmemfs.__file__).parent
    settings = tomllib.loads((root.parent / "pyproject.toml").read_text())
    globs = settings["tool"]["setuptools"]["package-data"]["pmemfs"]
    shipped = {path for pattern in globs for path in root.glob(pattern)}
    assert set(root.rglob("*.md")) <= shipped


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--only", "flat,round"), "no scheme is called 'round'"),
        (("--size", "16M"), "a device of 256M to 1T can be driven"),
        (("--split", "101"), "not in the range"),
        (("--dir", "/nowhere"), "does not exist"),
    ],
)
def test_wrong_options(arguments: tuple[str, ...], sentence: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_no_trace(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no trace at all")
    for path, sentence in ((tmp_path / "x", "is no trace"), (tmp_path / "y", "cannot read")):
        result = command("--trace", path)
        assert (result.exit_code, result.stdout) == (1, "")
        assert sentence in result.stderr
    empty = write_trace(tmp_path / "empty", 128)
    assert "has no accesses" in command("--trace", empty).stderr
