"""The descriptor schemes: known figures, real stores, one rule of stamping, what is measured."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pmemfs.bench.descriptors.accesses import (
    Accesses,
    extents_in_use,
    recorded,
    summary,
    synthetic,
)
from pmemfs.bench.descriptors.compound import Memdesc, VmemmapDedup
from pmemfs.bench.descriptors.device import (
    TallyDevice,
    open_scratch,
    scratch_directory,
    scratch_file,
)
from pmemfs.bench.descriptors.inverted import IDLE_S, Inverted
from pmemfs.bench.descriptors.linear import Flat, Hierarchical, Scattered
from pmemfs.bench.descriptors.measure import SCHEMES, Plan, crossings, measure, touch_all
from pmemfs.bench.descriptors.report import notes, sections
from pmemfs.bench.descriptors.scheme import DIRTY, FREED, WHOLE, WRITE, Scheme
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
    assert scheme.parts() == {"heads": 32 * MIB, "split tables": 0, "owner pages": 0}
    assert scheme.device.host_bytes < 64 * KIB
    small = np.arange(3)
    scheme.prepare(small, np.array([], np.int64))
    before = scheme.device.host_bytes
    touch_all(scheme, small, np.array([], np.int64))
    assert scheme.parts()["split tables"] == 3 * 32 * KIB
    assert scheme.device.host_bytes - before == 3 * 32 * KIB
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
    for each in (pfn, pfn + 1):
        assert scheme.device.words[found(scheme, each) + 2] == 3 * 64


def test_pages_of_a_split_extent_have_a_descriptor_each(scheme: Scheme) -> None:
    touch_all(scheme, np.array([SMALL, SMALL + 1]), np.array([LARGE]))
    pages = np.arange(SMALL * 512 + 1, SMALL * 512 + 512)
    if scheme.name == "scattered":
        pages = pages[pages % 65 != 64]  # those are descriptor pages themselves
    assert len({found(scheme, pfn) for pfn in pages.tolist()}) == len(pages)


def test_vectors_find_the_same(scheme: Scheme) -> None:
    touch_all(scheme, np.array([SMALL]), np.array([LARGE]))
    extents = (0, SMALL, SMALL + 1, LARGE)
    pfns = np.concatenate([np.arange(e * 512 + 1, e * 512 + 512) for e in extents])
    pfns = scheme.translate(pfns)
    assert scheme.find_many(pfns).tolist() == [scheme.find(pfn) for pfn in pfns.tolist()]


def test_only_inverted_gives_descriptors_back(scheme: Scheme) -> None:
    touch_all(scheme, np.array([SMALL, SMALL + 1]), np.array([LARGE]))
    active = sum(scheme.parts().values())
    scheme.pass_time(2 + 3 * int(IDLE_S))
    idle = sum(scheme.parts().values())
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
    assert not any(row["extrapolated"] for row in document["inverted"]["initialise"])
    assert "~ not done" in notes(document)[0]


def test_bytes_at_peak_and_at_rest(document: dict) -> None:
    for name, scheme in document.items():
        peak, rest = scheme["bytes"]["peak"], scheme["bytes"]["rest"]
        assert peak["total_bytes"] == sum(peak["parts"].values())
        assert rest["total_bytes"] <= peak["total_bytes"], name
    n_small = len(extents_in_use(SIZE, 0.25)[0])
    inverted = document["inverted"]["bytes"]
    assert inverted["peak"]["parts"]["split tables"] == n_small * 32 * KIB
    assert inverted["rest"]["parts"] == {
        "heads": SIZE // 2**21 * 64,
        "split tables": 0,
        "owner pages": n_small * 4096,
    }


def test_wear_is_of_all_lines_stored(document: dict) -> None:
    for scheme in document.values():
        wear = scheme["wear"]
        assert wear["lines_stored"] == sum(p["lines_stored"] for p in wear["by_part"].values())
        assert wear["hottest"] == max(p["hottest"] for p in wear["by_part"].values())
        assert wear["curve"][0] == (1, wear["hottest"])
        assert wear["curve"][-1][0] == wear["lines"]
        assert 0.01 <= wear["hottest_1_percent_share"] <= 1


def test_where_inverted_stops_winning(document: dict) -> None:
    shares = crossings(document)
    assert shares["memdesc"] is None
    assert 0.9 < shares["flat"] < 1
    assert 0.6 < shares["vmemmap-dedup"] < 0.8
    sweep = {name: [row["total_bytes"] for row in document[name]["sweep"]] for name in document}
    assert sweep["inverted"][0] == SIZE // 2**21 * 64
    assert sweep["flat"] == [SIZE // 64] * 3


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
    assert inverted["peak"]["parts"]["split tables"] == 2 * 32 * KIB
    assert inverted["rest"]["parts"]["split tables"] == 0
    assert inverted["rest"]["parts"]["owner pages"] == 2 * 4096
    for scheme in document.values():
        assert list(scheme["lookups"]) == ["whole", "split"]
        assert scheme["wear"]["lines_stored"] > 0


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
    pytest.importorskip("matplotlib")
    words = ("--quick", "--size", "256M", "--seconds", "2", "--only", "inverted,flat")
    result = command(*words, "--plots", tmp_path / "p", "--dir", tmp_path)
    assert result.exit_code == 0, result.output
    for title in ("Bytes of descriptors", "Initialise", "Lookups", "Wear by", "as a share of"):
        assert title in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines() if "split tables" in line]
    pictures = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert pictures == ["bytes.png", "initialise.png", "wear.png"]


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
