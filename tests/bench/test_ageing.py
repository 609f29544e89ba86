"""`pmemfs bench ageing`: the profile, the trace, the models of others, the run, the command."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Done

from pmemfs.bench.ageing import ext4, profile, report
from pmemfs.bench.ageing.ours import AgedVolume, image_folder
from pmemfs.bench.ageing.rivals import RIVALS, FirstFit, Rival, TwoTrees, TwoTreesOfFour
from pmemfs.bench.ageing.run import OURS, AgeingOptions, replay, run
from pmemfs.bench.ageing.store import measure_owners, samples_due
from pmemfs.bench.ageing.trace import Recorded, Trace
from pmemfs.cli import main
from pmemfs.fs.placement import PLACEMENTS
from pmemfs.fsck import check
from pmemfs.image import Image
from pmemfs.layout.geometry import PAGES_PER_EXTENT
from pmemfs.units import MIB

PAGE = 4096
SMALL = AgeingOptions(size_bytes=128 * MIB, overwrites=1.5, rivals=tuple(RIVALS))


def ignore(policy: str, done: float, total: float) -> bool:
    assert done <= total * 1.1
    return True


# -- the profile ----------------------------------------------------------------------------------


def test_half_of_the_files_are_small_and_few_hold_most_bytes() -> None:
    sizes = profile.draw_sizes(np.random.default_rng(3), 400_000, "bounds")
    assert (sizes <= PAGE).mean() == pytest.approx(0.5, abs=0.01)
    assert (sizes > 524288).mean() == pytest.approx(0.02, abs=0.003)
    assert sizes[sizes > 524288].sum() / sizes.sum() == pytest.approx(0.64, abs=0.03)


def test_sizes_within_their_buckets_have_tails() -> None:
    dice = np.random.default_rng(3)
    within = profile.draw_sizes(dice, 100_000, "within")
    assert within.min() >= 2
    assert within.max() <= profile.SIZE_BOUNDS[-1]
    assert len(np.unique(within % PAGE)) > 4000
    assert set(profile.draw_sizes(dice, 1000, "bounds").tolist()) <= set(profile.SIZE_BOUNDS)


@pytest.mark.parametrize(
    ("percent", "amplification", "descriptors"),
    [(50, 1.148, 0.00545), (75, 1.070, 0.00726), (90, 1.053, 0.00825)],
)
def test_the_arithmetic_is_that_of_the_goals(
    percent: int, amplification: float, descriptors: float
) -> None:
    found = profile.by_arithmetic(round(percent * 5.12), "within")
    assert found == (
        pytest.approx(amplification, abs=0.005),
        pytest.approx(descriptors, abs=0.0001),
    )


def test_lifetimes_give_the_published_ages_back() -> None:
    """A population that files enter at an even rate has, after long, ages of the profile."""
    dice = np.random.default_rng(5)
    lives = profile.draw_lifetimes(dice, 1_000_000)
    born = dice.random(len(lives)) * 130_000
    ages = 130_000 - born
    ages = ages[ages < lives]
    want = np.cumsum(profile.AGE_WEIGHTS) / sum(profile.AGE_WEIGHTS)
    got = [(ages <= bound).mean() for bound in profile.AGE_BOUNDS]
    assert np.abs(np.array(got) - want).max() < 0.08
    share = profile.survival()[1]
    assert share[0] == 1
    assert (np.diff(share) <= 0).all()


# -- the trace ------------------------------------------------------------------------------------


def drive(trace: Trace, files: int, most_bytes: int) -> list[tuple[str, int]]:
    """Run a trace against a store that only adds sizes up."""
    events: list[tuple[str, int]] = []
    sizes: dict[int, int] = {}

    def create(file: object) -> None:
        sizes[file.number] = file.size  # type: ignore[attr-defined]
        events.append(("+", file.number))  # type: ignore[attr-defined]

    def remove(number: int) -> None:
        del sizes[number]
        events.append(("-", number))

    for _ in range(files):
        trace.step(lambda more: sum(sizes.values()) + more > most_bytes, create, remove)
    return events


def test_a_trace_depends_on_its_seed_only() -> None:
    one, same = (drive(Trace(1, "within", 9), 600, 8 * MIB) for _ in range(2))
    assert one == same
    assert one != drive(Trace(2, "within", 9), 600, 8 * MIB)
    assert any(sign == "-" for sign, _ in one)


def test_a_record_is_what_was_done() -> None:
    trace = Trace(1, "within", 9)
    events = drive(trace, 600, 8 * MIB)
    recorded = [("-" if size < 0 else "+", n) for n, size in trace.recorded.iter_events()]
    assert recorded == events
    sizes = [size for _, size in trace.recorded.iter_events() if size >= 0]
    assert sum(sizes) == trace.bytes_written


# -- the models of others -------------------------------------------------------------------------


def runs_of(rival: Rival, number: int) -> list[tuple[int, int]]:
    return rival._files[number]


def test_first_fit_takes_the_lowest_pages() -> None:
    rival = FirstFit(4 * MIB)
    for number in range(3):
        rival.create(number, 10 * PAGE)
    rival.remove(1)
    rival.create(3, 4 * PAGE)
    assert runs_of(rival, 3) == [(10, 4)]
    rival.create(4, 8 * PAGE)
    assert runs_of(rival, 4) == [(14, 6), (30, 2)]


def test_two_trees_use_whole_extents_and_holes_before_they_break_one() -> None:
    rival = TwoTrees(8 * MIB)
    rival.create(0, 2 * MIB + 3 * PAGE)
    assert runs_of(rival, 0) == [(0, 512), (512, 3)]
    rival.create(1, 509 * PAGE)
    rival.create(2, PAGE)
    assert runs_of(rival, 2) == [(1024, 1)], "no hole is left"
    rival.remove(0)
    rival.create(3, 5 * PAGE)
    assert runs_of(rival, 3) == [(512, 3), (1025, 2)], "the first hole, however small"
    rival.create(4, 2 * MIB)
    assert runs_of(rival, 4) == [(0, 512)], "the lowest extent, that has come free"
    rival.create(5, 2 * MIB + 4 * PAGE)
    assert runs_of(rival, 5) == [(1536, 512), (1027, 4)]


def test_two_trees_with_shares_for_cpus() -> None:
    rival = TwoTreesOfFour(64 * MIB)
    share = 8 * PAGES_PER_EXTENT
    rival.create(0, 3 * PAGE)
    rival.create(1, PAGE)
    assert runs_of(rival, 1) == [(share, 1)], "an own extent is broken, though others have holes"
    rival.create(4, 16 * MIB - 4 * PAGE)
    assert runs_of(rival, 4)[-1] == (3, 508), "the rest fills the hole"
    rival.create(8, 3 * PAGE)
    assert runs_of(rival, 8) == [(511, 1), (2 * share, 2)], "then the share with most free pages"


@pytest.mark.parametrize("rival_class", RIVALS.values())
def test_no_page_has_two_owners(rival_class: type[Rival]) -> None:
    dice = np.random.default_rng(4)
    rival = rival_class(32 * MIB)
    living: list[int] = []
    for number in range(1500):
        size = int(dice.choice([1, PAGE, 5 * PAGE, 99 * PAGE, 3 * MIB]))
        while living and rival.free_pages * PAGE < size + 4 * MIB:
            rival.remove(living.pop(int(dice.integers(len(living)))))
        rival.create(number, size)
        living.append(number)
    want = np.zeros(len(rival.owners), np.uint32)
    for number in living:
        for start, count in runs_of(rival, number):
            assert not want[start : start + count].any()
            want[start : start + count] = number + 1
    assert (want == rival.owners).all()
    assert rival.free_pages == int((want == 0).sum())
    assert ((np.frombuffer(rival.used, np.uint8) == 1) == (want != 0)).all()
    for number in living:
        rival.remove(number)
    assert rival.sample(1).free_whole == 1


def test_measuring_owners() -> None:
    owners = np.zeros(4 * PAGES_PER_EXTENT, np.uint32)
    owners[:PAGES_PER_EXTENT] = 7
    owners[512:514] = 8
    owners[515:517] = 8
    assert measure_owners(owners) == (pytest.approx(1024 / 1532), pytest.approx(512 / 516), 516 / 3)
    assert measure_owners(np.zeros(1024, np.uint32)) == (1.0, 0.0, 0.0)


# -- the run --------------------------------------------------------------------------------------


def test_a_run_meets_what_does_not_depend_on_its_length() -> None:
    result = run(SMALL, ignore)
    assert list(result.samples) == [OURS, *(rival.name for rival in RIVALS.values())]
    assert [len(samples) for samples in result.samples.values()] == [10] * 4
    last = result.samples[OURS][-1]
    assert last.overwrites == pytest.approx(1.5, abs=0.1)
    assert last.full == pytest.approx(0.75, abs=0.03)
    assert last.columns["moved_per_written"] <= 0.5
    assert result.left == {"extents_not_free": 0, "split_extents": 0, "inodes": 0}
    assert result.idle is not None
    assert result.idle.columns["descriptors_now"] == 0
    assert result.active is not None
    active = result.active.columns
    assert active["split_extents"] == active["small_extents"] > 0
    assert active["descriptors_now"] == active["descriptors_active"]
    assert 0 < last.columns["promoted_per_written"] < 0.5
    for rival in RIVALS.values():
        assert result.samples[rival.name][-1].files == last.files
    assert any(goal.text.startswith("all free") and goal.met for goal in report.goals(result))


@pytest.mark.parametrize(
    ("written", "taken", "due"),
    [(9, 0, 0), (10, 0, 1), (10, 1, 0), (35, 1, 2), (99, 9, 0), (100, 9, 1), (140, 8, 2)],
)
def test_a_file_that_passes_several_tenths_makes_several_samples_due(
    written: int, taken: int, due: int
) -> None:
    assert samples_due(written, 100, taken) == due


def test_there_are_ten_samples_though_the_last_file_passes_two_tenths() -> None:
    options = AgeingOptions(
        size_bytes=64 * MIB, overwrites=0.8, sizes="bounds", seed=6, rivals=("first-fit",)
    )
    result = run(options, ignore)
    ours, theirs = result.samples[OURS], result.samples[FirstFit.name]
    assert [len(ours), len(theirs)] == [10, 10]
    assert ours[-1].overwrites == ours[-2].overwrites > 0.8
    assert result.is_complete


def test_the_same_seed_ages_the_same_way() -> None:
    options = AgeingOptions(size_bytes=64 * MIB, overwrites=1, rivals=())
    assert run(options, ignore).samples == run(options, ignore).samples


def test_the_aged_image_is_clean_and_its_files_are_there() -> None:
    trace = Trace(1, "within", 20)
    with AgedVolume(64 * MIB, 0.8, directories=20, folder=image_folder()) as aged:
        while trace.bytes_written < 128 * MIB:
            trace.step(aged.is_full, aged.create, aged.remove)
        image = Image.open(aged.path, lock="none")
        try:
            findings = check(image)
        finally:
            image.close()
        assert findings.is_clean, [str(finding) for finding in findings.findings]
        assert findings.files == len(aged._files) == len(list(trace.iter_living()))
        counters = aged.volume.device.counters
        assert counters.bytes_stored > trace.bytes_written
        assert aged.volume.device.host_bytes < trace.bytes_written // 4


def test_the_time_limit_ends_a_run() -> None:
    options = AgeingOptions(
        size_bytes=64 * MIB, overwrites=500, rivals=("first-fit",), minutes=0.01
    )
    result = run(options, ignore)
    done = result.samples[OURS][-1].overwrites
    assert done < 500
    assert result.samples[FirstFit.name][-1].overwrites == pytest.approx(done, abs=0.2)


@pytest.mark.skipif(ext4.problem() is not None, reason=str(ext4.problem()))
def test_ext4_gets_the_same_trace() -> None:
    trace = Trace(1, "within", 9)
    drive(trace, 3000, 32 * MIB)
    samples = ext4.age(trace.recorded, 64 * MIB, 1.0, lambda done: None)
    assert len(samples) == 10
    assert all(0 <= sample.free_whole <= 1 for sample in samples)
    assert 0.3 < samples[-1].full < 1


def test_replaying_into_too_little_room_is_an_error() -> None:
    trace = Trace(1, "within", 9)
    drive(trace, 2000, 32 * MIB)
    with pytest.raises(OSError, match="no room"):
        replay(trace.recorded, FirstFit(4 * MIB), 1.0, ignore)
    assert list(Recorded().iter_events()) == []


# -- the command ----------------------------------------------------------------------------------


def ageing(*arguments: str) -> Done:
    base = ["bench", "ageing", "--size", "64M", "--overwrites", "0.8", "--sizes", "within"]
    return CliRunner().invoke(main, [*base, *arguments])


def test_the_table_has_all_policies_and_goals() -> None:
    done = ageing("--rivals", "first-fit,two-trees")
    assert done.exit_code in (0, 1), done.output
    for text in ("pmemfs", "4 KiB first fit", "two trees", "Goals", "amplification", "met"):
        assert text in done.output


def test_json_has_samples_and_goals() -> None:
    done = ageing("--rivals", "none", "--json")
    document = json.loads(done.stdout)
    (one,) = document["runs"]
    assert len(one["samples"]["pmemfs"]) == 10
    told = [line for line in done.stderr.splitlines() if line.startswith("pmemfs: {")]
    assert [json.loads(line[8:]) for line in told] == one["samples"]["pmemfs"]
    assert one["complete"]
    assert one["options"]["seed"] == 1
    assert {"text", "measured", "met"} == set(one["goals"][0])
    assert "kernel" in document["environment"]


def interrupted(monkeypatch: pytest.MonkeyPatch, *policies: str) -> Done:
    """Run with Ctrl-C pressed once at each of these."""
    left = set(policies)

    def press(self: object, policy: str, done: float, total: float) -> None:
        if policy in left:
            left.remove(policy)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("pmemfs.cli.bench_ageing._Lines.show", press)
    more = ["--size", "256M", "--sizes", "both", "--rivals", "first-fit", "--json"]
    done = ageing("--overwrites", "100", *more)
    assert not left
    return done


def test_ctrl_c_ends_the_run_and_shows_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    done = interrupted(monkeypatch, OURS)
    assert "ending early" in done.stderr
    (one,) = json.loads(done.stdout)["runs"]
    assert 0 < one["overwrites"] < 2
    assert one["overwrites"] == one["samples"][OURS][-1]["overwrites"]
    assert not one["complete"]
    assert not one["goals"], "nothing is judged while the device fills"
    assert done.exit_code == 0
    assert one["samples"][FirstFit.name][-1]["overwrites"] > 0


def test_ctrl_c_once_more_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    done = interrupted(monkeypatch, OURS, FirstFit.name)
    assert done.exit_code not in (0, 1)
    assert not done.stdout


@pytest.mark.parametrize("what", ["promote", "placement"])
def test_comparing(what: str) -> None:
    done = ageing("--vary", what)
    assert done.exit_code == 0
    for text in {"promote": ("25%", "90%"), "placement": ("one", "directory", "size")}[what]:
        assert text in done.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--rivals btrfs", "is none of"),
        ("--size 1M", "64 MiB"),
        ("--long", "leave --size out"),
        ("--vary promote --rivals none", "leave --rivals out"),
        ("--vary promote --promote 40", "leave --promote out"),
        ("--vary placement --placement one", "leave --placement out"),
        ("--vary placement --sizes both", "in one way"),
    ],
)
def test_wrong_arguments(arguments: str, reason: str) -> None:
    done = ageing(*arguments.split())
    assert done.exit_code == 2
    assert reason in done.stderr


@pytest.mark.parametrize("name", ["no such/x.png", "x.xyz", "second.png"])
def test_a_picture_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "second-bounds.png").mkdir()
    done = ageing("--png", str(tmp_path / name), "--overwrites", "1000", "--sizes", "both")
    assert done.exit_code == 1
    assert done.stderr.startswith("pmemfs: cannot write ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


@pytest.mark.filterwarnings("default")  # matplotlib's own
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_results_are_there_though_the_picture_fails(tmp_path: Path, more: tuple[str, ...]) -> None:
    path = tmp_path / "x.png"
    path.symlink_to("/dev/full")
    words = ("--vary", "placement", "--overwrites", "0.1", "--png", str(path))
    done = ageing(*words, *more)
    assert done.exit_code == 3
    assert f"\npmemfs: cannot write {path}: No space left on device\n" in f"\n{done.stderr}"
    if more:
        assert list(json.loads(done.stdout)["runs"]) == list(PLACEMENTS)
    else:
        assert "directory" in done.stdout


def test_a_plot_without_matplotlib_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    done = ageing("--png", str(tmp_path / "x.png"))
    assert done.exit_code == 1
    assert "pip install 'pmemfs[plot]'" in done.stderr


@pytest.mark.filterwarnings("default")  # matplotlib's own
@pytest.mark.parametrize(
    "more",
    [("--rivals", "first-fit", "--sizes", "both"), ("--vary", "promote"), ("--vary", "placement")],
)
def test_plots(tmp_path: Path, more: tuple[str, ...]) -> None:
    ageing("--png", str(tmp_path / "plot.png"), *more)
    names = ["plot.png"] if "--vary" in more else ["plot-bounds.png", "plot.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
