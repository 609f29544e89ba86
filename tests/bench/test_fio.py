from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from pmemfs.bench import fio
from pmemfs.bench.fio import FioJob, FioScale, fio_command, parse_result
from pmemfs.bench.ratios import Kind
from pmemfs.errors import PmemfsError
from pmemfs.units import KIB, MIB

SCALE = FioScale(runtime_s=0.5, file_bytes=MIB)
NOTHING = {"total_ios": 0, "iops": 0.0, "bw_bytes": 0, "lat_ns": {"mean": 0.0}, "clat_ns": {}}


def direction(n_ios: int, mean_ns: float, p99_ns: int) -> dict[str, Any]:
    return {
        "total_ios": n_ios,
        "iops": float(n_ios),
        "bw_bytes": n_ios * 4096,
        "lat_ns": {"mean": mean_ns},
        "clat_ns": {"percentile": {"99.000000": p99_ns}},
    }


def printed(read: dict[str, Any], write: dict[str, Any], error: int = 0) -> str:
    return json.dumps({"jobs": [{"error": error, "read": read, "write": write}]})


def test_result_of_reads() -> None:
    result = parse_result(printed(direction(1000, 5000.0, 9000), NOTHING))
    assert result == fio.FioResult(1000.0, 4096000, 5.0, 9.0)


def test_result_adds_both_directions() -> None:
    result = parse_result(printed(direction(300, 1000.0, 2000), direction(100, 5000.0, 8000)))
    assert result.iops == 400
    assert result.mib_per_s == pytest.approx(400 * 4096 / MIB)
    assert result.mean_us == pytest.approx(2.0)
    assert result.p99_us == 8.0


def test_result_after_other_lines() -> None:
    text = "fio: something to note\n" + printed(NOTHING, direction(7, 1.0, 1))
    assert parse_result(text).iops == 7


def test_result_that_is_an_error() -> None:
    with pytest.raises(PmemfsError, match="No space left") as caught:
        parse_result(printed(NOTHING, direction(7, 1.0, 1), error=28))
    assert caught.value.errno == 28


@pytest.mark.parametrize("text", ["", "fio: bad option", '{"jobs": []}', '{"jobs": [{}]}', "{"])
def test_result_that_cannot_be_read(text: str) -> None:
    with pytest.raises(PmemfsError, match="cannot read what fio printed"):
        parse_result(text)


def test_result_without_io() -> None:
    with pytest.raises(PmemfsError, match="no I/O"):
        parse_result(printed(NOTHING, NOTHING))


def test_jobs_cover_what_issue_3_asks() -> None:
    names = [job.name for job in fio.JOBS]
    assert len(set(names)) == len(names)
    for rw in ("randread", "randwrite", "randrw"):
        for mode in ("direct", "buffered"):
            for depth in (1, 16):
                for jobs in (1, 4):
                    assert f"{rw}-4k-{mode}-d{depth}-j{jobs}" in names
    for block in ("128k", "1m"):
        assert f"read-{block}-buffered-warm" in names
        for mode in ("direct", "buffered"):
            for state in ("warm", "fresh"):
                assert f"write-{block}-{mode}-{state}" in names
    assert "randwrite-4k-fsync-warm" in names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("randread-4k-direct-d16-j4", Kind.DIRECT_4K),
        ("randwrite-4k-buffered-d1-j1", Kind.CACHED_WRITE_4K),
        ("randrw-4k-buffered-d1-j1", Kind.CACHED),
        ("read-1m-buffered-warm", Kind.CACHED),
        ("read-1m-buffered-cold", Kind.LARGE),
        ("write-1m-buffered-fresh", Kind.LARGE),
        ("write-128k-direct-warm", Kind.OTHER),
        ("randwrite-4k-fsync-warm", Kind.OTHER),
    ],
)
def test_kind_of_a_job(name: str, kind: Kind) -> None:
    (job,) = [job for job in fio.JOBS if job.name == name]
    assert job.measure.kind is kind
    assert job.measure.unit == ("IOPS" if "-4k-" in name else "MiB/s")


def test_command_of_a_random_job(tmp_path: Any) -> None:
    job = FioJob("g", "randrw", 4 * KIB, direct=True, depth=16, jobs=4)
    command = fio_command(job, tmp_path, SCALE)
    for word in ("--ioengine=libaio", "--direct=1", "--numjobs=4", "--rwmixread=70"):
        assert word in command
    assert "--runtime=500ms" in command
    assert "--filename_format=bench.$jobnum" in command


def test_command_of_a_fresh_write(tmp_path: Any) -> None:
    job = FioJob("g", "write", MIB, direct=False, state="fresh")
    command = fio_command(job, tmp_path, SCALE)
    assert {"--filename=fresh", f"--size={4 * MIB}", "--end_fsync=1"} <= set(command)
    assert not any(word.startswith("--runtime") for word in command)


def test_command_of_a_cold_read_drops_the_cache(tmp_path: Any) -> None:
    cold = fio_command(FioJob("g", "read", MIB, False, state="cold"), tmp_path, SCALE)
    warm = fio_command(FioJob("g", "read", MIB, False), tmp_path, SCALE)
    assert "--invalidate=1" in cold
    assert "--invalidate=0" in warm


def test_no_room(tmp_path: Any) -> None:
    bench = fio.FioBench(tmp_path, FioScale(1.0, 1 << 60))
    with pytest.raises(PmemfsError, match="the run needs"), bench:
        pass
    assert not list(tmp_path.iterdir())


def test_no_fio(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PmemfsError, match="fio is missing: install it"):
        fio.require_fio()


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
@pytest.mark.parametrize("name", ["randrw-4k-buffered-d16-j4", "write-1m-buffered-fresh"])
def test_a_job_runs_and_leaves_nothing(tmp_path: Any, name: str) -> None:
    (job,) = [job for job in fio.JOBS if job.name == name]
    with fio.FioBench(tmp_path, FioScale(0.05, MIB)) as bench:
        result = bench.run(job)
    assert result.iops > 0
    assert result.bytes_per_s > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
def test_interruption_leaves_nothing(tmp_path: Any) -> None:
    with pytest.raises(KeyboardInterrupt), fio.FioBench(tmp_path, SCALE):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
