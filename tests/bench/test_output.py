from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmemfs.bench import fio, output
from pmemfs.bench.ratios import Kind, Measure
from pmemfs.bench.rounds import Results
from pmemfs.bench.workloads import Outcome

STAT = Measure("stat", "/s", Kind.STAT)
CREATE = Measure("create", "/s", Kind.METADATA)
UNPACK = Measure("unpack", "ms", Kind.METADATA)


@pytest.fixture
def results() -> Results:
    made = Results({"native": "ours", "fuse2fs": "theirs"}, [STAT, CREATE, UNPACK])
    for number, ours in enumerate((900.0, 1000.0, 1100.0), 1):
        made.add(number, "native", Outcome({"stat": ours, "create": 10.0, "unpack": 50.0}))
        made.add(number, "fuse2fs", Outcome({"stat": 105.0, "create": 10.0, "extra": 1.0}))
    return made


def test_samples_are_kept_by_round_and_only_if_wanted(results: Results) -> None:
    assert results.samples["stat"]["native"] == {1: 900.0, 2: 1000.0, 3: 1100.0}
    assert "extra" not in results.samples


def test_ratio_table(results: Results) -> None:
    columns, rows = output.ratio_table(results)
    assert columns == ["measure", ">native", "unit", ">/ fuse2fs"]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["stat", "1,000", "/s", "9.52x  (10) close"],
        ["create", "10.0", "/s", "1.00x  (2) not met"],
        ["unpack", "50.0", "ms", "-"],
    ]


def test_median_table(results: Results) -> None:
    columns, rows = output.median_table(results)
    assert columns == ["measure", "unit", ">native", ">fuse2fs"]
    assert rows[2] == ("unpack", "ms", "50.0", "-")


def test_goal_lines(results: Results) -> None:
    assert output.goal_lines(results) == [
        "against fuse2fs: 0 of 2 goals met",
        "  close: stat",
        "  not met: create",
    ]


def test_document_is_json_with_everything(results: Results) -> None:
    results.left_out["ext4-loop"] = "no loop device"
    data = json.loads(json.dumps(output.document(results, {"cpus": 2})))
    assert data["left_out"] == {"ext4-loop": "no loop device"}
    stat = data["measures"][0]
    assert stat["medians"] == {"native": 1000.0, "fuse2fs": 105.0}
    assert stat["ratios"]["fuse2fs"]["goal"] == 10.0
    assert stat["ratios"]["fuse2fs"]["verdict"] == "close"


def test_one_peer_alone_has_no_ratios() -> None:
    alone = Results({"native": "ours"}, [STAT])
    alone.add(1, "native", Outcome({"stat": 1.0}))
    assert output.ratio_table(alone) == (
        ["measure", ">native", "unit"],
        [("stat", "1.00", "/s")],
    )
    assert output.goal_lines(alone) == []


def test_row_of_a_fio_job() -> None:
    job = fio.JOBS[0]
    result = fio.FioResult(12345.6, 1 << 20, 1.25, 3.0)
    assert output.io_row(job, result) == (job.name, "12,346", "1.0", "1.2", "3.0")
    assert output.io_row(job, None) == (job.name, "-", "-", "-", "-")
    assert output.io_document(job, None, "broken") == {"name": job.name, "error": "broken"}


def test_environment_names_the_machine() -> None:
    facts = output.environment()
    assert facts["cpus"] >= 1
    assert facts["kernel"]


@pytest.mark.filterwarnings("default")  # matplotlib's own
def test_chart(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    output.write_chart(results, path)
    assert path.read_bytes().startswith(b"\x89PNG")
